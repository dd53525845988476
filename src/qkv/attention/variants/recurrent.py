"""Shared code of mechanisms whose memory of the past is a matrix per head, not a list of keys.

Shapes: B batch, H heads, Q queries, K keys.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, atleast_2d

from qkv.attention.masks import check_mask
from qkv.errors import ConfigError, LengthError


class RecurrentState:
    """A decoding state of one matrix per row and head, whose size does not depend on the length.

    Row 0 of a batch is `sums[0]`; None before the first tokens means zeros.
    """

    def __init__(self) -> None:
        self.length = 0
        self.sums: Tensor | None = None

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self.sums is not None:
            self.sums = self.sums[rows]

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row and not in the sums."""
        self.length -= n

    def join(self, other: "RecurrentState", rows: tuple[int, int]) -> None:
        """Add the rows of another state below these; a state without tokens has sums of 0."""
        like = self.sums if self.sums is not None else other.sums
        if like is not None:
            halves = zip((self.sums, other.sums), rows, strict=True)
            self.sums = torch.cat(
                [like.new_zeros(n, *like.shape[1:]) if sums is None else sums for sums, n in halves]
            )
        self.length = max(self.length, other.length)

    def rewind(self, length: int) -> None:
        """Raise, except at the current length: terms cannot be removed from a sum."""
        if length != self.length:
            raise LengthError(
                f"cannot rewind to length {length}: a {type(self).__name__} stores the sum over "
                f"{self.length} tokens, not each of them"
            )


def real_keys_mask(
    mask: Bool[Tensor, "..."], shape: tuple[int, ...], past: int, *, mechanism: str
) -> Bool[Tensor, "*B_H K 1"]:
    """Return which of the new keys are not masked.

    Args:
        mask: True = may attend, the same for all queries.
        shape: (B, H, Q, K), where K counts past and new keys.
        past: number of keys of earlier calls.
        mechanism: its name, for the error.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to the shape.
        ConfigError: if the mask depends on the query.
    """
    check_mask(mask, shape)
    mask = atleast_2d(mask)
    if mask.shape[-2] != 1:
        raise ConfigError(
            f"{mechanism} got a mask of shape {tuple(mask.shape)}; keys are summed "
            "once for all queries, so a mask must hide a key from all of them or from none"
        )
    return mask.expand(*mask.shape[:-1], shape[-1])[..., past:].transpose(-2, -1)

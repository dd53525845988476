"""The cache of causal linear attention, owned by the decoding loop."""

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.attention.variants.feature_sums import Features, Values, causal_linear_attention
from qkv.errors import LengthError


class LinearState:
    """The decoding state of linear attention: sums whose size does not depend on the length."""

    def __init__(self) -> None:
        self.length = 0
        self.sums: Tensor | None = None

    def update(self, queries: Features, keys: Features, values: Values) -> Values:
        """Attend to the past and to each other, and add the new keys to the sums."""
        mixed, self.sums = causal_linear_attention(queries, keys, values, self.sums)
        self.length += queries.shape[2]
        return mixed

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self.sums is not None:
            self.sums = self.sums[rows]

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row and not in the sums."""
        self.length -= n

    def join(self, other: "LinearState", rows: tuple[int, int]) -> None:
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
                f"cannot rewind to length {length}: a LinearState stores the sum over "
                f"{self.length} tokens, not each of them"
            )

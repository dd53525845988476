"""The cache of streaming attention, which keeps only the first tokens and a window.

Shapes: B batch, G key heads, D head width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.cache import KeysValues, KeyValueCache
from qkv.attention.masks import positions_from_mask, real_keys, with_four_axes
from qkv.errors import LengthError


class StreamingCache(KeyValueCache):
    """Stores keys and values of each row's first `n_sinks` and last `window` real tokens."""

    def __init__(self, *, n_sinks: int, window: int):
        super().__init__()
        self.n_sinks, self.window = n_sinks, window
        self._kept: KeysValues | None = None
        self._columns: Int[Tensor, "B kept"] | None = None  # indices in the whole text
        self._real: Bool[Tensor, "B keys"] | None = None  # which of the kept and new keys are real

    def narrow(self, mask: Bool[Tensor, "..."], shape: tuple[int, ...]) -> Bool[Tensor, "b h q k"]:
        """Select the columns of the kept keys and of the new keys, which `update` then adds.

        Args:
            mask: True = may attend; covers all earlier tokens and the new ones.
            shape: (batch, heads, new tokens, all tokens), to which the mask broadcasts.

        Raises:
            ShapeError: if the mask is not boolean or does not broadcast to `shape`.
        """
        columns = self._all_columns(shape[0], shape[2], mask.device)
        self._real = real_keys(mask, shape).take_along_dim(columns, 1)
        mask = with_four_axes(mask)
        return mask.expand(*mask.shape[:3], shape[3]).take_along_dim(columns[:, None, None], 3)

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Append new keys and values, return all, then discard those that no later query sees."""
        keys, values = project()
        batch, n_new = keys.shape[0], keys.shape[2]
        columns = self._all_columns(batch, n_new, keys.device)
        if self._kept is not None:
            keys = torch.cat((self._kept[0], keys), 2)
            values = torch.cat((self._kept[1], values), 2)
        real = torch.ones_like(columns, dtype=torch.bool) if self._real is None else self._real
        kept = self._keep(real)
        at = kept[:, None, :, None]
        self._kept = keys.take_along_dim(at, 2), values.take_along_dim(at, 2)
        self._columns, self._real = columns.take_along_dim(kept, 1), None
        self.length += n_new
        return keys, values

    def _all_columns(self, batch: int, n_new: int, device: torch.device) -> Int[Tensor, "B keys"]:
        new = torch.arange(self.length, self.length + n_new, device=device).expand(batch, -1)
        return new if self._columns is None else torch.cat((self._columns, new), 1)

    def _keep(self, real: Bool[Tensor, "B keys"]) -> Int[Tensor, "B kept"]:
        """Choose each row's first and last real keys, in order, padded on the left."""
        at = positions_from_mask(real)
        kept = real & ((at < self.n_sinks) | (at > at[:, -1:] - self.window))
        return kept.long().argsort(dim=1, stable=True)[:, -(self.n_sinks + self.window) :]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self._kept is not None and self._columns is not None:
            self._kept = self._kept[0][rows], self._kept[1][rows]
            self._columns = self._columns[rows]

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row.

        A row with fewer kept tokens than another begins with padding, and so does its text.
        """
        self.length -= n
        if self._kept is not None and self._columns is not None:
            first = max(0, self._columns.shape[1] - self.length)
            self._columns = (self._columns[:, first:] - n).clamp(min=0)
            self._kept = self._kept[0][:, :, first:], self._kept[1][:, :, first:]

    def join(self, other: KeyValueCache, rows: tuple[int, int]) -> None:
        """Add the rows of another cache below these; the shorter one is padded on the left."""
        assert isinstance(other, StreamingCache)
        length = max(self.length, other.length)
        like = self._kept or other._kept
        if like is not None:
            n_kept = max(0 if one._kept is None else one._kept[0].shape[2] for one in (self, other))
            halves = [
                one._aligned_to(length, n_kept, n, like)
                for one, n in zip((self, other), rows, strict=True)
            ]
            keys, values, columns = (torch.cat(parts) for parts in zip(*halves, strict=True))
            self._kept, self._columns = (keys, values), columns
        self.length = length

    def _aligned_to(
        self, length: int, n_kept: int, rows: int, like: KeysValues
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kept keys, values and columns of a text that is padded on the left.

        A text has at least as much padding as its kept keys, so each of these stands for padding.
        """
        keys, values = (one.new_zeros(rows, one.shape[1], 0, one.shape[3]) for one in like)
        columns = torch.zeros(rows, 0, dtype=torch.long, device=keys.device)
        if self._kept is not None and self._columns is not None:
            (keys, values), columns = self._kept, self._columns
        new = n_kept - keys.shape[2]
        padding = torch.arange(new, device=keys.device).expand(rows, -1)
        columns = torch.cat((padding, columns + (length - self.length)), 1)
        return F.pad(keys, (0, 0, new, 0)), F.pad(values, (0, 0, new, 0)), columns

    def rewind(self, length: int) -> None:
        """Raise, except at the current length: a shorter text may need discarded keys."""
        if length != self.length:
            raise LengthError(
                f"cannot rewind to length {length}: of {self.length} tokens, a StreamingCache kept "
                f"only the first {self.n_sinks} and the last {self.window}"
            )

"""Key-value caches for decoding. They are owned by the decoding loop, never by a module.

B batch, G key heads, D head width.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.errors import LengthError

KeysValues = tuple[Tensor, Tensor]


def is_all(rows: Int[Tensor, " rows"], n: int) -> bool:
    """Return whether rows are 0, 1, ..., n - 1: nothing has to be copied."""
    return len(rows) == n and torch.equal(rows, torch.arange(n, device=rows.device))


@runtime_checkable
class SelfAttentionCache(Protocol):
    """What a decoding loop does with the cache of a layer, whatever its mechanism stores."""

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        ...

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""

    def rewind(self, length: int) -> None:
        """Discard everything after the first `length` tokens, or raise a LengthError."""

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row."""

    def join(self, other: Any, rows: tuple[int, int]) -> None:
        """Add the rows of another cache of the same layer below these."""


class KeyValueCache:
    """Keys and values of the tokens so far, growing in memory that is allocated ahead of need."""

    def __init__(self, capacity: int = 64):
        self.length = 0
        self._capacity = capacity
        self._keys: Float[Tensor, "B G capacity D"] | None = None
        self._values: Float[Tensor, "B G capacity D"] | None = None

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Append the keys and values (B, G, n, D) that `project` computes; return all of them."""
        keys, values = project()
        start, end = self.stored, self.stored + keys.shape[2]
        self._keys = self._room(self._keys, keys, end)
        self._values = self._room(self._values, values, end)
        self._keys[:, :, start:end] = keys
        self._values[:, :, start:end] = values
        self.length += keys.shape[2]
        return self._keys[:, :, :end], self._values[:, :, :end]

    @property
    def stored(self) -> int:
        """Number of positions in memory; less than `length` if old ones were dropped."""
        return self.length

    @property
    def empty(self) -> bool:
        """Whether nothing was ever stored."""
        return self._keys is None

    def reserve(self, n: int) -> KeysValues | None:
        """Return the memory (B, G, capacity, D) with n more positions, for the caller to write.

        None if nothing is stored yet.
        """
        if self._keys is None or self._values is None:
            return None
        end = self.stored + n
        self._keys, self._values = (self._room(x, x, end) for x in (self._keys, self._values))
        self.length += n
        return self._keys, self._values

    def _room(self, slots: Tensor | None, new: Tensor, end: int) -> Tensor:
        if slots is not None and end <= slots.shape[2]:
            return slots
        # Doubling keeps the cost of all the copies together linear in the final length.
        capacity = max(end, self._capacity if slots is None else 2 * slots.shape[2])
        larger = new.new_zeros(*new.shape[:2], capacity, new.shape[3])
        if slots is not None:
            larger[:, :, : self.stored] = slots[:, :, : self.stored]
        return larger

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self._keys is None or self._values is None:
            return
        # Copy only what is filled and, if the number of rows stays the same, only rows that move.
        if len(rows) != len(self._keys):
            self._keys, self._values = (
                self._taken(slots, rows) for slots in (self._keys, self._values)
            )
            return
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        for slots in (self._keys, self._values):
            filled = slots[:, :, : self.stored]
            filled[moved] = filled[rows[moved]]

    def _taken(self, slots: Tensor, rows: Int[Tensor, " rows"]) -> Tensor:
        taken = slots.new_empty(len(rows), *slots.shape[1:])
        taken[:, :, : self.stored] = slots[rows, :, : self.stored]
        return taken

    def rewind(self, length: int) -> None:
        """Discard everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise LengthError(f"cannot rewind to length {length}: the cache holds {self.length}")
        self.length = length

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row; the next copy frees them."""
        self.length -= n
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[:, :, n:], self._values[:, :, n:]

    def join(self, other: "KeyValueCache", rows: tuple[int, int]) -> None:
        """Add the rows of another cache below these; the shorter one is padded on the left.

        Args:
            other: a cache of the same layer.
            rows: number of rows of this cache and of the other one.
        """
        stored = self.stored, other.stored
        self._keys = self._joined((self._keys, other._keys), stored, rows)
        self._values = self._joined((self._values, other._values), stored, rows)
        self.length = max(self.length, other.length)

    def _joined(
        self,
        halves: tuple[Tensor | None, Tensor | None],
        stored: tuple[int, int],
        rows: tuple[int, int],
    ) -> Tensor | None:
        """Return both halves, aligned on the right, with room for the next tokens."""
        like = halves[0] if halves[0] is not None else halves[1]
        if like is None:  # both are empty
            return None
        end = max(stored)
        whole = like.new_zeros(sum(rows), like.shape[1], end + self._capacity, like.shape[3])
        for slots, n, at in zip(
            halves, stored, (slice(rows[0]), slice(rows[0], None)), strict=True
        ):
            if slots is not None:
                whole[at, :, end - n : end] = slots[:, :, :n]
        return whole


class MemoryCache:
    """Keys and values of a memory that does not grow, computed at the first call and reused.

    `sharing` consecutive rows of queries attend to each memory, such as hypotheses of a source.
    """

    def __init__(self) -> None:
        self.sharing = 1
        self._filled: KeysValues | None = None

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Return the keys and values, calling `project` only the first time."""
        if self._filled is None:
            self._filled = project()
        return self._filled

    @property
    def filled(self) -> KeysValues | None:
        """The keys and values (B, G, K, D); None before the first call."""
        return self._filled

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the memory, in this order; rows may repeat or be missing."""
        if self._filled is not None and not is_all(rows, len(self._filled[0])):
            keys, values = self._filled
            self._filled = keys[rows], values[rows]

    def rewind(self, length: int) -> None:
        """Do nothing: the memory is the same at every length."""

    def join(self, other: "MemoryCache", rows: tuple[int, int]) -> None:
        """Forget the keys and values, which the next call computes from the joined memory."""
        self._filled, self.sharing = None, 1

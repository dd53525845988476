"""The cache of a sliding window: memory does not grow with the text.

B batch, G key heads, D head width.
"""

from collections.abc import Callable

from jaxtyping import Bool
from torch import Tensor

from qkv.attention.cache import KeysValues, KeyValueCache
from qkv.attention.masks import real_keys, with_four_axes
from qkv.errors import LengthError

SPARE = 64  # further tokens that are kept, by which a state can be rewound


class WindowCache(KeyValueCache):
    """Stores the keys and values that later queries see: the last ones of each row.

    At least `window` + `spare` real tokens of each row are kept, with the padding between them, in
    at most about four times as many positions. Older positions are dropped when twice as many are
    stored, so that a step rarely copies.

    Args:
        window: keys that a query sees before its own.
        spare: further tokens, by which the cache can be rewound.
    """

    def __init__(self, window: int, *, spare: int = SPARE):
        super().__init__()
        self.window, self.kept = window, window + spare
        self._first = 0  # position of the first stored key in the text
        self._least = 0  # length below which a query would miss dropped keys
        self._real: Bool[Tensor, "B stored"] | None = None

    @property
    def stored(self) -> int:
        """Number of positions in memory."""
        return self.length - self._first

    def narrow(self, mask: Bool[Tensor, "..."], shape: tuple[int, ...]) -> Bool[Tensor, "b h q k"]:
        """Select the columns of the stored keys and of the new keys, which `update` then adds.

        Args:
            mask: True = may attend; covers all earlier tokens and the new ones.
            shape: (batch, heads, new tokens, all tokens), to which the mask broadcasts.

        Raises:
            ShapeError: if the mask is not boolean or does not broadcast to `shape`.
        """
        self._real = real_keys(mask, shape)[:, self._first :]
        mask = with_four_axes(mask)
        return mask.expand(*mask.shape[:3], shape[3])[..., self._first :]

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Append new keys and values, and return all that are stored; then drop old ones."""
        keys, values = super().update(project)
        if self.stored >= 2 * self.kept:
            self._drop()
        self._real = None
        return keys, values

    def _drop(self) -> None:
        """Drop the positions before the last `kept` real tokens of every row."""
        real, stored = self._real, self.stored
        if real is None:
            n, rest = stored - self.kept, self.window
        else:
            follow = (
                real.flip(1).cumsum(1).flip(1)
            )  # (B, stored): real tokens from each position on
            enough = follow >= follow[:, :1].clamp(max=self.kept)
            n = int(enough.all(0).sum()) - 1
            missing = real[:, n:].cumsum(1) < self.window
            rest = int((missing & (follow[:, :1] >= self.kept)).any(0).sum()) + 1
        if n <= 0 or self._keys is None or self._values is None:
            return
        # What was returned is still in use: the rest is copied, not moved.
        self._keys, self._values = (self._last(x, stored - n) for x in (self._keys, self._values))
        self._first += n
        self._least = max(self._least, self._first + rest)

    def _last(self, slots: Tensor, n: int) -> Tensor:
        """Copy the last n stored positions into memory with room for as many more."""
        smaller = slots.new_zeros(*slots.shape[:2], 2 * max(n, self.kept), slots.shape[3])
        smaller[:, :, :n] = slots[:, :, self.stored - n : self.stored]
        return smaller

    def rewind(self, length: int) -> None:
        """Discard everything after the first `length` tokens, if what they see is still here."""
        if 0 <= length < self._least:
            raise LengthError(
                f"cannot rewind to length {length}: of {self.length} tokens, a window of "
                f"{self.window} keeps the last {self.stored}; expected at least {self._least}"
            )
        super().rewind(length)

    def forget(self, n: int) -> None:
        """Drop the first n positions, which are padding in every row; the next copy frees them."""
        stored = max(0, n - self._first)
        self.length, self._first = self.length - n, max(0, self._first - n)
        self._least = max(0, self._least - n)
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[:, :, stored:], self._values[:, :, stored:]

    def join(self, other: KeyValueCache, rows: tuple[int, int]) -> None:
        """Add the rows of another cache below these; the shorter one is padded on the left."""
        assert isinstance(other, WindowCache)
        length, stored = max(self.length, other.length), max(self.stored, other.stored)
        least = [one._least and one._least + length - one.length for one in (self, other)]
        super().join(other, rows)
        self._first, self._least = length - stored, max(least)

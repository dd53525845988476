"""The cache of streaming attention: the first tokens and a window are kept, the rest forgotten."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention.cache import KeysValues, KeyValueCache
from qkv.errors import LengthError


class StreamingCache(KeyValueCache):
    """Keeps keys and values of the first `n_sinks` tokens and of the last `window`."""

    def __init__(self, *, n_sinks: int, window: int):
        super().__init__()
        self.n_sinks, self.window = n_sinks, window
        self._kept: KeysValues | None = None

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Append the new ones, return them all, then forget what no later query sees."""
        keys, values = project()
        self.length += keys.shape[2]
        if self._kept is not None:
            keys = torch.cat((self._kept[0], keys), 2)
            values = torch.cat((self._kept[1], values), 2)
        self._kept = self._keep(keys), self._keep(values)
        return keys, values

    def _keep(self, x: Float[Tensor, "B G K D"]) -> Float[Tensor, "B G kept D"]:
        recent = max(self.n_sinks, x.shape[2] - self.window)
        return torch.cat((x[:, :, : self.n_sinks], x[:, :, recent:]), 2)

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self._kept is not None:
            self._kept = self._kept[0][rows], self._kept[1][rows]

    def rewind(self, length: int) -> None:
        """Refuse to go back: a shorter text may need what was forgotten."""
        if length != self.length:
            raise LengthError(
                f"cannot rewind to length {length}: of {self.length} tokens, a StreamingCache kept "
                f"only the first {self.n_sinks} and the last {self.window}"
            )

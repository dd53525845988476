"""Dilated sliding windows: a longer reach for the same number of keys.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1.
"""

from functools import partial
from typing import Unpack

from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.biased import PositionBias
from qkv.attention.core import lengths_are_open
from qkv.attention.masks import sliding_window_mask
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.chunks import attention_by_chunks
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.errors import ConfigError


def dilated_window_mask(
    queries: Int[Tensor, "*batch Q"],
    keys: Int[Tensor, "*batch K"],
    *,
    window: int,
    dilation: int,
    causal: bool = False,
) -> Bool[Tensor, "*batch Q K"]:
    """Let the query at position i see `window` keys on either side, `dilation` positions apart."""
    reached = sliding_window_mask(queries, keys, window=window * dilation, causal=causal)
    return reached & ((keys[..., None, :] - queries[..., :, None]) % dilation == 0)


class DilatedWindowAttention(SlidingWindowAttention):
    """Sliding windows over every `dilation`-th token; with 1, the same as `SlidingWindowAttention`.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        window: keys on either side of a query's own key.
        dilation: distance between neighboring keys.
        options: see `SlidingWindowAttention`.

    Raises:
        ConfigError: if the window or the dilation is not positive.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int,
        dilation: int,
        **options: Unpack[AttentionOptions],
    ):
        if dilation < 1:
            raise ConfigError(f"dilation = {dilation}; expected at least 1 (a plain window)")
        super().__init__(d_model, n_heads, window=window, **options)
        self.dilation, self.reach = dilation, window * dilation

    def pattern(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Bool[Tensor, "*batch Q K"]:
        """Return which queries may attend to which keys."""
        return dilated_window_mask(
            queries, keys, window=self.window, dilation=self.dilation, causal=self.causal
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend among every `dilation`-th position, where the window is contiguous."""
        if mask is not None or lengths_are_open():  # each row has its own positions
            return super().attend(queries, keys, values, mask)
        n_queries, past = queries.shape[2], keys.shape[2] - queries.shape[2]
        window = partial(sliding_window_mask, window=self.window, causal=self.causal)
        heads = queries.new_empty(*queries.shape[:3], values.shape[-1])
        for first in range(self.dilation):
            rows = slice((first - past) % self.dilation, n_queries, self.dilation)
            columns = slice(first, None, self.dilation)
            if rows.start < n_queries:
                heads[:, :, rows] = attention_by_chunks(
                    queries[:, :, rows],
                    keys[:, :, columns],
                    values[:, :, columns],
                    window,
                    reach=self.window,
                    causal=self.causal,
                    position_bias=self._bias_from(first),
                    dropout=self.active_dropout,
                )
        return heads

    def _bias_from(self, first: int) -> PositionBias | None:
        """Return the bias for positions first, first + dilation, ..., renumbered from 0."""
        bias = self.position_bias
        if bias is None:
            return None
        return lambda queries, keys: bias(
            queries * self.dilation + first, keys * self.dilation + first
        )

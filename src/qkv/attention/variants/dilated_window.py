"""A window with gaps: a longer reach for the same number of keys.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1.
"""

from functools import partial

from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.masks import sliding_window_mask, whole_mask
from qkv.attention.variants.chunks import attention_by_chunks
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.errors import ConfigError


def dilated_window_mask(
    queries: Int[Tensor, " Q"],
    keys: Int[Tensor, " K"],
    *,
    window: int,
    dilation: int,
    causal: bool = False,
) -> Bool[Tensor, "Q K"]:
    """Let the query at place i see `window` keys on either side, `dilation` places apart."""
    reached = sliding_window_mask(queries, keys, window=window * dilation, causal=causal)
    return reached & ((keys[None, :] - queries[:, None]) % dilation == 0)


class DilatedWindowAttention(SlidingWindowAttention):
    """Sliding windows over each `dilation`-th place; a dilation of 1 is `SlidingWindowAttention`.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        window: keys seen on either side of a query's own.
        dilation: places from one of them to the next.
        causal: whether the side of later keys is hidden.

    Raises:
        ConfigError: if the window or the dilation is not positive.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, window: int, dilation: int, causal: bool = False
    ):
        if dilation < 1:
            raise ConfigError(f"a dilation of {dilation}; expected at least 1, a plain window")
        super().__init__(d_model, n_heads, window=window, causal=causal)
        self.dilation = dilation

    def pattern(self, queries: Int[Tensor, " Q"], keys: Int[Tensor, " K"]) -> Bool[Tensor, "Q K"]:
        """Say which places see which."""
        return dilated_window_mask(
            queries, keys, window=self.window, dilation=self.dilation, causal=self.causal
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values of each `dilation`-th place: among those, the window is a plain one."""
        mask = whole_mask(mask, queries, keys)
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
                    mask=mask[..., rows, columns],
                )
        return heads

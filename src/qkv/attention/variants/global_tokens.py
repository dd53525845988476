"""Sliding windows, and a few tokens that see all tokens and are seen by all.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1.
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.core import attention
from qkv.attention.masks import (
    positions_from_mask,
    real_keys,
    sliding_window_mask,
    whole_mask,
)
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.errors import ConfigError


def global_tokens_mask(
    queries: Int[Tensor, "*batch Q"],
    keys: Int[Tensor, "*batch K"],
    *,
    n_global: int,
    window: int,
    causal: bool = False,
) -> Bool[Tensor, "*batch Q K"]:
    """Combine a sliding window with `n_global` first tokens that see all and are seen by all.

    If causal, no token sees a later one.
    """
    near = sliding_window_mask(queries, keys, window=window, causal=causal)
    queries, keys = queries[..., :, None], keys[..., None, :]
    is_global = (queries < n_global) | (keys < n_global)
    return near | (is_global & (keys <= queries) if causal else is_global)


class GlobalTokensAttention(SlidingWindowAttention):
    """Sliding windows with global tokens at the start (such as a class token).

    Longformer has separate projections for global tokens; here all tokens share the same.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        n_global: number of global tokens; with 0, the same as `SlidingWindowAttention`.
        window: keys on either side of a query's own key.
        options: see `SlidingWindowAttention`; if causal, global tokens see no later key either.

    Raises:
        ConfigError: if the window is not positive or n_global negative.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_global: int,
        window: int,
        **options: Unpack[AttentionOptions],
    ):
        if n_global < 0:
            raise ConfigError(f"n_global = {n_global}; expected a number of tokens, 0 or more")
        super().__init__(d_model, n_heads, window=window, **options)
        self.n_first = n_global

    def pattern(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Bool[Tensor, "*batch Q K"]:
        """Return which queries may attend to which keys."""
        return global_tokens_mask(
            queries, keys, n_global=self.n_first, window=self.window, causal=self.causal
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in chunks, then recompute global queries, which see keys outside their chunk."""
        heads = super().attend(queries, keys, values, mask)
        if self.causal or not self.n_first:
            return heads
        n_queries, n_keys = queries.shape[2], keys.shape[2]
        real = real_keys(mask, (*queries.shape[:3], n_keys), keys.device)
        keys_at = positions_from_mask(real)
        at = keys_at[:, n_keys - n_queries :]
        is_global = real[:, n_keys - n_queries :] & (at < self.n_first)  # (B, Q)
        rows = (~is_global).long().argsort(dim=1, stable=True)[:, : self.n_first]
        bias = None
        if self.position_bias is not None:
            bias = self.position_bias(at.take_along_dim(rows, 1), keys_at)
        is_global = is_global.take_along_dim(rows, 1)[:, None, :, None]
        rows = rows[:, None, :, None]  # (B, 1, n, 1): the global queries, and some others
        allowed = whole_mask(mask, queries, keys).take_along_dim(rows, 2)
        whole = attention(
            queries.take_along_dim(rows, 2),
            keys,
            values,
            mask=allowed,
            bias=bias,
            dropout=self.active_dropout,
        )
        chosen = torch.where(is_global, whole, heads.take_along_dim(rows, 2))
        return heads.scatter(2, rows.expand_as(chosen), chosen)

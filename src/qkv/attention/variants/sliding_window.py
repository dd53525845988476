"""Sliding-window attention: each query sees a window of keys.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1; causal in
Child et al. 2019 and Mistral 7B. With a window as long as the text, this is standard attention.
"""

from typing import Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, MemoryCache, SelfAttentionCache
from qkv.attention.core import attention, attention_weights, lengths_are_open
from qkv.attention.masks import key_positions, sliding_window_mask, whole_mask
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.chunks import attention_by_chunks
from qkv.attention.variants.self_attention import SelfAttention
from qkv.attention.window_cache import WindowCache
from qkv.errors import ConfigError


class SlidingWindowAttention(SelfAttention):
    """Multi-head attention with a `sliding_window_mask`; only the band of scores is computed.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        window: keys on either side of a query's own key (w / 2 in Longformer; W - 1 in Mistral,
            causal).
        options: see `MultiHeadAttention`; if causal, later keys are hidden.

    Raises:
        ConfigError: if the window is not positive.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, window: int, **options: Unpack[AttentionOptions]
    ):
        if window < 1:
            raise ConfigError(f"a window of {window} positions; expected at least 1 on either side")
        super().__init__(d_model, n_heads, **options)
        self.window, self.reach, self.n_first = window, window, 0

    def new_cache(self) -> SelfAttentionCache:
        """Return an empty cache, which keeps what the window sees; a bias may need all keys."""
        if self.n_first or not self.causal or self.position_bias is not None:
            return super().new_cache()
        return WindowCache(self.reach)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`. The mask covers the whole text."""
        if mask is not None and isinstance(cache, WindowCache):
            mask = cache.narrow(mask, (len(x), self.n_heads, x.shape[1], cache.length + x.shape[1]))
        return super().forward(x, memory, mask=mask, positions=positions, cache=cache)

    def pattern(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Bool[Tensor, "*batch Q K"]:
        """Return which queries may attend to which keys."""
        return sliding_window_mask(queries, keys, window=self.window, causal=self.causal)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute all weights for a recorder; most are 0."""
        allowed, bias = self.allowed(queries, keys, mask), self.score_bias(queries, keys, mask)
        return attention_weights(queries, keys, mask=allowed, bias=bias)

    def allowed(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Bool[Tensor, "b h Q K"]:
        """Combine the mask with the pattern."""
        pattern = self.pattern(*key_positions(mask, queries, keys)).unsqueeze(-3)
        return whole_mask(mask, queries, keys) & pattern

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weighted sum of the values chunk by chunk."""
        if lengths_are_open():
            return attention(
                queries,
                keys,
                values,
                mask=self.allowed(queries, keys, mask),
                bias=self.score_bias(queries, keys, mask),
                dropout=self.active_dropout,
            )
        return attention_by_chunks(
            queries,
            keys,
            values,
            self.pattern,
            reach=self.reach,
            causal=self.causal,
            mask=mask,
            n_first=self.n_first,
            position_bias=self.position_bias,
            dropout=self.active_dropout,
        )

"""Attention for endless text: each token sees the first tokens (attention sinks) and a window.

Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.2.
"""

from typing import Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.streaming_cache import StreamingCache
from qkv.errors import ConfigError


class StreamingAttention(GlobalTokensAttention):
    """Causal attention to the first `n_sinks` tokens and the last `window`, without a limit.

    A `StreamingCache` gives the same result in constant memory; recorded columns are then the kept
    keys. Positions are those in the text; the paper counts them within the cache.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        n_sinks: number of tokens at the start that all others see.
        window: keys before a query's own key.
        options: see `MultiHeadAttention`; always causal.

    Raises:
        ConfigError: if the window is not positive, n_sinks is negative, or causal is False.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int,
        n_sinks: int = 4,
        **options: Unpack[AttentionOptions],
    ):
        if not options.setdefault("causal", True):
            raise ConfigError(
                "causal = False; a stream has no later tokens to attend to: expected True, or "
                "GlobalTokensAttention for a text of known length"
            )
        super().__init__(d_model, n_heads, n_global=n_sinks, window=window, **options)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`. The mask covers the whole text.

        Raises:
            ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
        """
        if mask is not None and isinstance(cache, StreamingCache):
            n_keys = cache.length + x.shape[1]
            mask = cache.narrow(mask, (len(x), self.n_heads, x.shape[1], n_keys))
        return super().forward(x, memory, mask=mask, positions=positions, cache=cache)

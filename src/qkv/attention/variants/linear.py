"""Attention without a softmax: linear in the length, and recurrent when decoding.

Katharopoulos et al. 2020, "Transformers are RNNs: fast autoregressive transformers with linear
attention". Shapes: B batch, H heads, Q queries, K keys, D head width.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants import feature_sums as sums
from qkv.attention.variants.linear_state import LinearState
from qkv.attention.variants.recurrent import real_keys_mask
from qkv.attention.variants.self_attention import refuse_memory
from qkv.errors import ConfigError


class LinearAttention(MultiHeadAttention):
    """phi(Q) (phi(K)^T V) / phi(Q) (phi(K)^T 1), phi(x) = elu(x) + 1 (eq. 6, 7).

    Args:
        d_model: width of input and output.
        n_heads: heads.
        causal: whether queries see only keys up to their own position; then no memory is accepted.

    Raises:
        ConfigError: in `forward`, if the mask depends on the query or the cache has the wrong type.
    """

    def __init__(self, d_model: int, n_heads: int, *, causal: bool = False):
        super().__init__(d_model, n_heads, causal=causal)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | LinearState | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`. Positions have no effect."""
        if self.causal:
            refuse_memory(self, memory)
        state = self._state(cache)
        queries = sums.feature_map(self._split(self.query(x)))
        memory = x if memory is None else memory
        keys = sums.feature_map(self._split(self.key(memory)))
        values = F.pad(self._split(self.value(memory)), (0, 1), value=1.0)
        if mask is not None:
            past = state.length if state else 0
            shape = (*queries.shape[:3], past + keys.shape[2])
            keys = keys * real_keys_mask(mask, shape, past, mechanism="linear attention")
        if self.recorder is not None:
            self.recorder(sums.linear_weights(queries, keys, causal=self.causal))
        if self.causal:
            mixed = (state or LinearState()).update(queries, keys, values)
        else:
            mixed = queries @ sums.key_value_sums(keys, values)
        return self.join(sums.divide(mixed), x)

    def new_cache(self) -> LinearState:
        """Return an empty state for decoding."""
        return LinearState()

    def _state(self, cache: object) -> LinearState | None:
        if cache is None or (self.causal and isinstance(cache, LinearState)):
            if cache is not None and self.recorder is not None:
                raise ConfigError("a LinearState keeps no keys to weigh: record without a cache")
            return cache
        raise ConfigError(
            f"linear attention (causal={self.causal}) got a {type(cache).__name__}; it "
            "can decode only if causal, with a LinearState as its layer's cache.self_attention"
        )

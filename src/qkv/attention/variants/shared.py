"""Attention with the keys and values of an earlier layer: fewer projections, and a smaller cache.

Brandon et al. 2024, "Reducing transformer key-value cache size with cross-layer attention".
"""

from collections.abc import Callable
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeysValues, KeyValueCache, MemoryCache
from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants.self_attention import refuse_memory
from qkv.errors import ConfigError


class PassedKeys(KeyValueCache):
    """The keys and values of one forward pass, for the layers that share them; nothing is copied.

    A second pass overwrites them, so activations can be recomputed.
    """

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Store and return the keys and values (B, G, n, D) that `project` computes."""
        self._keys, self._values = project()
        self.length = self._keys.shape[2]
        return self._keys, self._values


class SharedCache(MemoryCache):
    """The cache of a layer without keys of its own: it reads those in an earlier layer's cache.

    Args:
        source: the cache of the earlier layer, which is updated first and makes all changes.
    """

    def __init__(self, source: KeyValueCache | None = None):
        super().__init__()
        self.source = source

    @property
    def length(self) -> int:
        """Number of tokens that the earlier layer has stored."""
        return 0 if self.source is None else self.source.length

    @property
    def empty(self) -> bool:
        """Whether the earlier layer has not stored anything yet."""
        return self.source is None or self.source.empty

    def update(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Return the keys and values (B, G, K, D) of the earlier layer; `project` is not called.

        Raises:
            ConfigError: if the earlier layer has none.
        """
        stored = None if self.source is None else self.source.reserve(0)
        if stored is None:
            raise ConfigError(
                "shared attention has no keys: expected a cache that the earlier layer has filled "
                "(does the stack connect them, as that of Hybrid does?)"
            )
        keys, values = stored
        return keys[:, :, : self.length], values[:, :, : self.length]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Do nothing, like `rewind`, `forget` and `join`: the earlier layer's cache is changed."""

    def forget(self, n: int) -> None:
        """Do nothing."""

    def join(self, other: Any, rows: tuple[int, int]) -> None:
        """Do nothing."""


class SharedAttention(MultiHeadAttention):
    """softmax(Q_l K_m^T / sqrt(d)) V_m, with the keys and values of an earlier layer m < l.

    It has projections of queries and outputs alone. With the input and the key and value
    projections of layer m, this is standard attention.

    Args:
        d_model: width of input and output.
        n_heads: query heads; a multiple of the key heads of the earlier layer.
        options: see `MultiHeadAttention`; `rotary` is that of the earlier layer.

    Raises:
        ConfigError: in `forward`, without a `SharedCache` of an earlier layer.
    """

    def __init__(self, d_model: int, n_heads: int, **options: Unpack[AttentionOptions]):
        super().__init__(d_model, n_heads, **options)
        for name in ("key", "value"):
            self.register_module(name, None)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`. The keys of x itself are in the cache."""
        refuse_memory(self, memory)
        if not isinstance(cache, SharedCache):
            raise ConfigError(
                f"shared attention got {type(cache).__name__} as its cache; expected a SharedCache "
                "with the keys and values of an earlier layer"
            )
        if positions is None:
            positions = torch.arange(cache.length - x.shape[1], cache.length, device=x.device)
        return super().forward(x, mask=mask, positions=positions, cache=cache)

    def new_cache(self) -> SharedCache:
        """Return a cache whose `source` must be set to the cache of the earlier layer."""
        return SharedCache()

r"""Multi-head attention, with grouped and multi-query heads.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.

    multi-head (G = H)       grouped (1 < G < H)      multi-query (G = 1)
    q q q q                  q q q q                  q q q q
    | | | |                  \ / \ /                  \ | | /
    k k k k                   k   k                      k
"""

from collections.abc import Callable
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention.biased import PositionBias, biased_attention
from qkv.attention.cache import KeysValues, KeyValueCache, MemoryCache, SelfAttentionCache
from qkv.attention.core import attention, attention_weights
from qkv.attention.masks import key_positions
from qkv.attention.record import Recorder
from qkv.attention.window_cache import WindowCache
from qkv.errors import ConfigError

Rotation = Callable[[Tensor, Tensor], Tensor]  # x (B, H, L, D), positions -> (B, H, L, D)


class AttentionOptions(TypedDict, total=False):
    """The options of `MultiHeadAttention`, for variants that pass them on (PEP 692)."""

    n_kv_heads: int | None
    d_head: int | None
    bias: bool
    qkv_bias: bool | None
    causal: bool
    dropout: float
    rotary: Rotation | None
    position_bias: PositionBias | None


class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O (Vaswani et al. 2017, section 3.2.2).

    Self-attention if called with `x` alone, cross-attention if called with a memory. A variant
    overrides the step of `forward` that it changes: queries, keys_values, weights, attend or join.

    Args:
        d_model: width of input and output.
        n_heads: query heads H.
        n_kv_heads: key and value heads G; None means H. Each serves H / G query heads (Shazeer 2019
            for G = 1, Ainslie et al. 2023 in between).
        d_head: width of a head; None means d_model / H.
        bias: whether the output projection has a bias.
        qkv_bias: whether the other projections have one; None means as `bias`.
        causal: whether queries see only keys up to their own position.
        dropout: probability of dropping a weight in training.
        rotary: rotates queries and keys by their positions (RoPE).
        position_bias: added to the scores of self-attention; a function of the positions of queries
            and keys (ALiBi, T5).

    Raises:
        ConfigError: if H does not divide d_model (unless d_head is set), or G does not divide H.
    """

    recorder: Recorder | None = None

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        bias: bool = True,
        qkv_bias: bool | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        rotary: Rotation | None = None,
        position_bias: PositionBias | None = None,
    ):
        super().__init__()
        if d_head is None and d_model % n_heads:
            raise ConfigError(
                f"d_model = {d_model} is not divisible by n_heads = {n_heads}: each head gets an "
                "equal share of the width; change one of them, or set d_head"
            )
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ConfigError(
                f"n_heads = {n_heads} is not divisible by n_kv_heads = {n_kv_heads}: each key head "
                "serves an equal group of query heads"
            )
        d_head = d_model // n_heads if d_head is None else d_head
        qkv_bias = bias if qkv_bias is None else qkv_bias
        self.n_heads, self.d_head, self.causal, self.dropout = n_heads, d_head, causal, dropout
        self.rotary, self.position_bias = rotary, position_bias
        self.query = nn.Linear(d_model, n_heads * d_head, bias=qkv_bias)
        self.key = nn.Linear(d_model, n_kv_heads * d_head, bias=qkv_bias)
        self.value = nn.Linear(d_model, n_kv_heads * d_head, bias=qkv_bias)
        self.output = nn.Linear(n_heads * d_head, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "memories K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Project, attend in every head at once, concatenate, project.

        Args:
            x: the tokens that attend.
            memory: the tokens attended to, (B, K, D_model), or with a cache that is filled one row
                for several of x; None means x.
            mask: True = may attend, broadcastable to (B, H, Q, K).
            positions: positions of x, (Q,) or (B, Q), for rotary; None continues from the cache.
            cache: keys and values of earlier calls, to which those of x (or, once, of the memory)
                are added.
        """
        past = cache.length if isinstance(cache, KeyValueCache) else 0
        if positions is None:
            positions = torch.arange(past, past + x.shape[1], device=x.device)
        queries = self.queries(x, positions)
        source = x if memory is None else memory

        def project() -> KeysValues:
            return self.keys_values(source, positions)

        keys, values = project() if cache is None else cache.update(project)
        rows = cache.sharing if isinstance(cache, MemoryCache) else 1
        queries = _as_queries(queries, rows)
        if self.recorder is not None:
            weights = _as_rows(self.weights(queries, keys, mask), rows)
            # Dropped keys are outside the window: their weights are 0.
            dropped = cache.length - keys.shape[2] if isinstance(cache, WindowCache) else 0
            self.recorder(F.pad(weights, (dropped, 0)))
        return self.join(_as_rows(self.attend(queries, keys, values, mask), rows), x)

    def new_cache(self) -> SelfAttentionCache:
        """Return an empty cache for decoding with this mechanism."""
        return KeyValueCache()

    def queries(self, x: Float[Tensor, "B Q D_model"], positions: Tensor) -> Tensor:
        """Project x to queries (B, H, Q, D)."""
        return self._rotate(self._split(self.query(x)), positions)

    def keys_values(self, source: Float[Tensor, "B K D_model"], positions: Tensor) -> KeysValues:
        """Project the source to keys and values (B, G, K, D), which a cache stores."""
        keys, values = self._split(self.key(source)), self._split(self.value(source))
        return self._rotate(keys, positions), values

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weights (B, H, Q, K) for a recorder."""
        bias = self.score_bias(queries, keys, mask)
        return attention_weights(queries, keys, mask=mask, bias=bias, causal=self.causal)

    def score_bias(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "*B H Q K"] | None:
        """Compute the bias that `position_bias` adds to the scores."""
        if self.position_bias is None:
            return None
        return self.position_bias(*key_positions(mask, queries, keys))

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "B H Q D"]:
        """Compute the weighted sum of the values; the fused kernel never stores the weights."""
        options = {"mask": mask, "causal": self.causal, "dropout": self.active_dropout}
        if self.position_bias is None:
            return attention(queries, keys, values, **options)
        return biased_attention(queries, keys, values, self.position_bias, **options)

    def join(
        self, heads: Float[Tensor, "B H Q D"], x: Float[Tensor, "B Q D_model"]
    ) -> Float[Tensor, "B Q D_model"]:
        """Concatenate the heads and project; a variant may gate them by x."""
        return self.output(heads.transpose(1, 2).flatten(2))  # (B, H, Q, D) -> (B, Q, H * D)

    @property
    def active_dropout(self) -> float:
        """The dropout probability in the current mode: 0 in evaluation mode."""
        return self.dropout if self.training else 0.0

    def _split(self, x: Float[Tensor, "B L H_times_D"]) -> Float[Tensor, "B H L D"]:
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def _rotate(self, x: Float[Tensor, "B H L D"], positions: Tensor) -> Float[Tensor, "B H L D"]:
        return x if self.rotary is None else self.rotary(x, positions)


def _as_queries(x: Float[Tensor, "B H Q D"], rows: int) -> Float[Tensor, "memories H QR D"]:
    """Turn rows of the same memory into more queries of one row."""
    if rows == 1:
        return x
    return x.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)


def _as_rows(x: Float[Tensor, "memories H QR K"], rows: int) -> Float[Tensor, "B H Q K"]:
    """Undo `_as_queries`."""
    if rows == 1:
        return x
    return x.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)

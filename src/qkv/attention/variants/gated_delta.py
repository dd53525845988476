"""Attention without a softmax, by a memory that is decayed and corrected: the gated delta rule.

Yang, Kautz and Hatamizadeh 2025, "Gated delta networks: improving Mamba2 with delta rule".
Shapes: B batch, H heads, Q queries, K keys, D head width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.delta_rule import (
    Gates,
    Keys,
    Values,
    delta_weights,
    gated_delta_rule,
    unit,
)
from qkv.attention.variants.recurrent import RecurrentState, real_keys_mask
from qkv.attention.variants.self_attention import refuse_memory
from qkv.errors import ConfigError


class DeltaState(RecurrentState):
    """The decoding state of the gated delta rule: its memory (B, H, D, D)."""

    def update(
        self, queries: Keys, keys: Keys, values: Values, log_alpha: Gates, beta: Gates
    ) -> Values:
        """Process the new tokens in order, each after it was written to the memory."""
        mixed, self.sums = gated_delta_rule(queries, keys, values, log_alpha, beta, self.sums)
        self.length += queries.shape[2]
        return mixed


class GatedDeltaAttention(MultiHeadAttention):
    """S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t.

    Per head, q and k have norm 1, beta = sigmoid(W_b x) and, as in Mamba2,
    alpha = exp(-A softplus(W_a x + b)) with A > 0. The order of the tokens enters by the decay, so
    positions are not used. The layer of the paper also has short convolutions and SiLU on queries,
    keys and values, and a gated norm on the heads; its values are twice as wide.

    Args:
        d_model: width of input and output.
        n_heads: heads; queries, keys and values have as many.
        d_head: width of a head; None means d_model / H.
        bias: whether the output projection has a bias.
        qkv_bias: whether those of queries, keys and values have one; None means as `bias`.
        causal: must be True.

    Raises:
        ConfigError: if causal is False; in `forward`, if the mask depends on the query or the cache
            has the wrong type.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        d_head: int | None = None,
        bias: bool = True,
        qkv_bias: bool | None = None,
        causal: bool = True,
    ):
        if not causal:
            raise ConfigError(
                "causal = False; the gated delta rule writes tokens to its memory in order, so a "
                "query cannot see later ones: expected True, or LinearAttention"
            )
        super().__init__(
            d_model, n_heads, d_head=d_head, bias=bias, qkv_bias=qkv_bias, causal=causal
        )
        self.beta = nn.Linear(d_model, n_heads, bias=False)
        self.alpha = nn.Linear(d_model, n_heads, bias=False)
        # As in Mamba2: A from U(1, 16), and softplus(b) from 0.001 to 0.1, uniform in its log.
        self.log_rate = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())  # log A
        step = torch.empty(n_heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step_bias = nn.Parameter(step.expm1().log())  # b, by the inverse of softplus

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | DeltaState | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`. Positions have no effect."""
        refuse_memory(self, memory)
        state = self._state(cache)
        q, k = unit(self._split(self.query(x))), unit(self._split(self.key(x)))
        values = self._split(self.value(x))
        log_alpha, beta = self.gates(x)
        if mask is not None:  # a masked token keeps the memory and writes nothing
            shape = (*q.shape[:3], state.length + q.shape[2])
            real = real_keys_mask(mask, shape, state.length, mechanism="the gated delta rule")
            real = real[..., 0]  # (*B_H, K)
            log_alpha, beta = log_alpha * real, beta * real
        if self.recorder is not None:
            self.recorder(delta_weights(q, k, log_alpha, beta))
        return self.join(state.update(q, k, values, log_alpha, beta), x)

    def gates(
        self, x: Float[Tensor, "B Q D_model"]
    ) -> tuple[Float[Tensor, "B H Q"], Float[Tensor, "B H Q"]]:
        """Return log alpha, at most 0, and beta, between 0 and 1."""
        step = F.softplus(self.alpha(x) + self.step_bias)
        log_alpha = -self.log_rate.exp() * step
        return log_alpha.transpose(1, 2), self.beta(x).sigmoid().transpose(1, 2)

    def new_cache(self) -> DeltaState:
        """Return an empty state for decoding."""
        return DeltaState()

    def _state(self, cache: object) -> DeltaState:
        if cache is None:
            return DeltaState()
        if not isinstance(cache, DeltaState):
            raise ConfigError(
                f"the gated delta rule got a {type(cache).__name__}; it decodes with a DeltaState "
                "as its layer's cache.self_attention"
            )
        if self.recorder is not None:
            raise ConfigError("a DeltaState keeps no keys to weigh: record without a cache")
        return cache

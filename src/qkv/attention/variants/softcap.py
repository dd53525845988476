"""Soft-capped scores, which cannot grow without bound.

Gemma Team 2024, "Gemma 2: Improving open language models at a practical size", section 2.
"""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.attention.multi_head import AttentionOptions
from qkv.attention.scores import scaled_dot_scores
from qkv.attention.variants.explicit import ExplicitAttention
from qkv.errors import ConfigError


def softcap(scores: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
    """Compute cap * tanh(scores / cap): close to the identity near 0, and within +-cap."""
    return cap * torch.tanh(scores / cap)


class SoftcapAttention(ExplicitAttention):
    """softmax(cap tanh(Q K^T / (cap sqrt(d)))) V; approaches standard attention as the cap grows.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        cap: bound of the scores; 50 in Gemma 2.
        options: see `MultiHeadAttention`; a position bias is added to the capped scores.

    Raises:
        ConfigError: if the cap is not positive, or the sizes do not divide each other.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, cap: float = 50.0, **options: Unpack[AttentionOptions]
    ):
        if cap <= 0:
            raise ConfigError(f"cap = {cap}; expected a positive bound on the scores")
        super().__init__(d_model, n_heads, **options)
        self.cap = cap

    def scores(
        self, queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B H K D"], mask: Tensor | None
    ) -> Float[Tensor, "B H Q K"]:
        """Cap the scaled dot products."""
        return softcap(scaled_dot_scores(queries, keys), self.cap)

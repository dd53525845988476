"""Sigmoid attention: each weight is a separate sigmoid, so keys do not compete.

Ramapuram et al. 2024, "Theory, analysis, and best practices for sigmoid self-attention".
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.attention.variants.explicit import ExplicitAttention


def sigmoid_weights(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "..."] | None
) -> Float[Tensor, "*batch Q K"]:
    """Compute sigmoid(score - log n), and 0 where the mask (True = may attend) is False.

    The bias makes n equal scores of 0 sum to n / (n + 1), nearly 1. In the paper n is the length of
    the sequence; here it counts the keys that the query may attend to, so that neither padding nor
    the future changes a weight.
    """
    if mask is None:
        mask = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    n = mask.expand(*mask.shape[:-1], scores.shape[-1]).sum(-1, keepdim=True).clamp(min=1)
    return torch.sigmoid(scores - n.to(scores.dtype).log()).masked_fill(~mask, 0.0)


class SigmoidAttention(ExplicitAttention):
    """sigmoid(Q K^T / sqrt(d) - log n) V: `sigmoid_weights` instead of a softmax."""

    def normalize(self, scores: Float[Tensor, "B H Q K"], mask: Tensor | None) -> Tensor:
        """Compute each weight independently."""
        return sigmoid_weights(scores, mask)

"""Differential attention: the difference of two softmaxes, in which common noise cancels.

Ye et al. 2024, "Differential transformer".
"""

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention


def initial_lambda(layer: int) -> float:
    """Compute 0.8 - 0.6 exp(-0.3 (layer - 1)), with layers counted from 1 (section 2.1)."""
    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))


class DifferentialAttention(MultiHeadAttention):
    """(softmax(Q1 K1^T / sqrt(d)) - lambda softmax(Q2 K2^T / sqrt(d))) V (eq. 1), normed per head.

    Without the norm and with lambda = 0, this is standard attention with Q1 and K1. Weights can be
    negative; they sum to 1 - lambda.

    Args:
        d_model: width of input and output.
        n_heads: heads, each with two queries and keys of width d = d_model / (2 n_heads) and values
            of width 2d; half as many as in a Transformer of this size.
        lambda_init: initial lambda, which also sets the scale 1 - lambda_init of the norm;
            `initial_lambda(layer)` in the paper.
        norm_eps: epsilon of the heads' RMS norm.
        options: see `MultiHeadAttention`; d_head is d, and n_kv_heads counts pairs of key heads.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        lambda_init: float = 0.8,
        norm_eps: float = 1e-5,
        **options: Unpack[AttentionOptions],
    ):
        n_kv_heads = options.get("n_kv_heads")
        options["n_kv_heads"] = None if n_kv_heads is None else 2 * n_kv_heads
        super().__init__(d_model, 2 * n_heads, **options)
        self.n_heads, self.lambda_init, self.norm_eps = n_heads, lambda_init, norm_eps
        # Rows q1, k1, q2, k2, shared by the heads.
        self.lambda_vectors = nn.Parameter(torch.randn(4, self.d_head) * 0.1)
        self.norm = nn.Parameter(torch.ones(2 * self.d_head))

    def mixing(self) -> Float[Tensor, ""]:
        """Compute lambda = exp(q1 . k1) - exp(q2 . k2) + lambda_init (eq. 2)."""
        q1, k1, q2, k2 = self.lambda_vectors
        return (q1 @ k1).exp() - (q2 @ k2).exp() + self.lambda_init

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Subtract the second of each pair of weight maps (B, 2H, Q, K) from the first."""
        plain = super().weights
        first, second = (plain(queries[:, i::2], keys[:, i::2], mask) for i in (0, 1))
        return first - self.mixing() * second

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weighted sum of the values and normalize each head (eq. 3)."""
        values = torch.cat((values[:, 0::2], values[:, 1::2]), -1)  # (B, 2H, K, d) -> (B, H, K, 2d)
        plain = super().attend
        first, second = (plain(queries[:, i::2], keys[:, i::2], values, mask) for i in (0, 1))
        heads = first - self.mixing() * second
        return F.rms_norm(heads, self.norm.shape, self.norm, self.norm_eps) * (1 - self.lambda_init)

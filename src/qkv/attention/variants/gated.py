"""A gate on the output of each head.

Qiu et al. 2025, "Gated attention for large language models: non-linearity, sparsity, and
attention-sink-free".
"""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention


class GatedAttention(MultiHeadAttention):
    """Y' = Y * sigmoid(X W_theta) (eq. 5), elementwise in each head, before the output projection.

    Approaches standard attention as the gate opens (a large bias); the paper's position G1.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        options: see `MultiHeadAttention`.
    """

    def __init__(self, d_model: int, n_heads: int, **options: Unpack[AttentionOptions]):
        super().__init__(d_model, n_heads, **options)
        self.gate = nn.Linear(d_model, n_heads * self.d_head)

    def join(
        self, heads: Float[Tensor, "B H Q D"], x: Float[Tensor, "B Q D_model"]
    ) -> Float[Tensor, "B Q D_model"]:
        """Gate the heads by x, concatenate, project."""
        return super().join(heads * torch.sigmoid(self._split(self.gate(x))), x)

"""A gate on what each head says.

Qiu et al. 2025, "Gated attention for large language models: non-linearity, sparsity, and
attention-sink-free".
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention, Rotation


class GatedAttention(MultiHeadAttention):
    """Y' = Y * sigmoid(X W_theta) (eq. 5), elementwise in each head, before the output projection.

    Standard attention as the gate opens (a large bias); the paper's position G1.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        n_kv_heads: key and value heads; n_heads where None.
        causal: whether queries see only keys up to their own place.
        rotary: turns queries and keys by their positions.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        causal: bool = False,
        rotary: Rotation | None = None,
    ):
        super().__init__(d_model, n_heads, n_kv_heads=n_kv_heads, causal=causal, rotary=rotary)
        self.gate = nn.Linear(d_model, n_heads * self.d_head)

    def join(
        self, heads: Float[Tensor, "B H Q D"], x: Float[Tensor, "B Q D_model"]
    ) -> Float[Tensor, "B Q D_model"]:
        """Gate the heads by what asked, concatenate, project."""
        return super().join(heads * torch.sigmoid(self._split(self.gate(x))), x)

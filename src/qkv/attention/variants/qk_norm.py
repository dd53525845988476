"""Normalized queries and keys: scores are cosines, independent of the projections' scale.

Henry et al. 2020, "Query-key normalization for transformers"; here with RMS norms and a learned
weight for each coordinate, as in Gemma 3 and Qwen 3.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.cache import KeysValues
from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention


class QKNormAttention(MultiHeadAttention):
    """softmax(RMSNorm(Q) RMSNorm(K)^T / sqrt(d)) V, normalized in each head before rotary.

    Henry et al. score by g cos(q, k) with a learned scalar g: equal to this if the product of the
    two weights is g / sqrt(d) in every coordinate.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        norm_eps: added to the mean square.
        options: see `MultiHeadAttention`.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        norm_eps: float = 1e-6,
        **options: Unpack[AttentionOptions],
    ):
        super().__init__(d_model, n_heads, **options)
        self.norm_eps = norm_eps
        self.query_norm = nn.Parameter(torch.ones(self.d_head))
        self.key_norm = nn.Parameter(torch.ones(self.d_head))

    def queries(self, x: Float[Tensor, "B Q D_model"], positions: Tensor) -> Tensor:
        """Project, normalize, rotate."""
        return self._normed(self.query(x), self.query_norm, positions)

    def keys_values(self, source: Float[Tensor, "B K D_model"], positions: Tensor) -> KeysValues:
        """Normalize the keys, not the values."""
        keys = self._normed(self.key(source), self.key_norm, positions)
        return keys, self._split(self.value(source))

    def _normed(self, x: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        normed = F.rms_norm(self._split(x), weight.shape, weight, self.norm_eps)
        return self._rotate(normed, positions)

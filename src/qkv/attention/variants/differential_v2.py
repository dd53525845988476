"""Differential attention with twice the queries: pairs of heads that share keys and values.

Ye et al. 2026, "Differential Transformer V2" (Microsoft; code in microsoft/unilm).
Shapes as in `multi_head`; maps are 2H.
"""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention


class DifferentialV2Attention(MultiHeadAttention):
    """head_i = attn(q_{2i}) - sigmoid(lambda_i) attn(q_{2i+1}), with lambda = X W_lambda.

    The two queries of a head share its keys and values, so the cache is that of standard attention,
    and heads are not normalized. As lambda falls, this approaches standard attention with the first
    query of each head. A recorder gets 2H maps: the first ones of all heads, then the second ones.

    Args:
        d_model: width of input and output.
        n_heads: heads H, with two queries each.
        options: see `MultiHeadAttention`.
    """

    def __init__(self, d_model: int, n_heads: int, **options: Unpack[AttentionOptions]):
        super().__init__(d_model, n_heads, **options)
        bias = self.query.bias is not None
        self.query = nn.Linear(d_model, 2 * n_heads * self.d_head, bias=bias)
        self.mixing = nn.Linear(d_model, n_heads, bias=False)

    def weights(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "B maps Q K"]:
        """Compute both maps of each head, which only `join` subtracts."""
        plain = super().weights
        return torch.cat([plain(queries[:, i::2], keys, mask) for i in (0, 1)], 1)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "B maps Q D"]:
        """Compute the sums of the values by the first and by the second query of each head."""
        plain = super().attend
        return torch.cat([plain(queries[:, i::2], keys, values, mask) for i in (0, 1)], 1)

    def join(
        self, heads: Float[Tensor, "B maps Q D"], x: Float[Tensor, "B Q D_model"]
    ) -> Float[Tensor, "B Q D_model"]:
        """Subtract a share, per token and head, of each second sum from the first, and project."""
        first, second = heads.chunk(2, 1)
        share = torch.sigmoid(self.mixing(x)).transpose(1, 2).unsqueeze(-1)  # (B, H, Q, 1)
        return super().join(first - share * second, x)

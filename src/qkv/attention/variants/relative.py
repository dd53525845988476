"""Learned vectors for relative distances, added to keys and values.

Shaw, Uszkoreit and Vaswani 2018, "Self-attention with relative position representations".
Shapes: B batch, H heads, Q queries, K keys, D head width, R = 2 max_distance + 1 distances.
"""

from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention.masks import key_positions
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.scores import dot_scores
from qkv.attention.variants.explicit import ExplicitAttention
from qkv.attention.variants.self_attention import SelfAttention


def clipped_distances(
    queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"], max_distance: int
) -> Int[Tensor, "*batch Q K"]:
    """Return the index of each distance: clip(key - query, -max, max) + max (section 3.2)."""
    distances = keys[..., None, :] - queries[..., :, None]
    return distances.clamp(-max_distance, max_distance) + max_distance


class RelativeAttention(SelfAttention, ExplicitAttention):
    """Keys k_j + a^K_ij and values v_j + a^V_ij, with one a per clipped distance j - i (eq. 3, 4).

    The vectors are shared by the heads and never stored per pair: q . a^K is computed once per
    distance, and the weights of a distance are summed before they are multiplied by a^V.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        max_distance: k, beyond which all distances share one vector.
        options: see `MultiHeadAttention`.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, max_distance: int, **options: Unpack[AttentionOptions]
    ):
        super().__init__(d_model, n_heads, **options)
        self.max_distance = max_distance
        self.key_distances = nn.Parameter(torch.randn(2 * max_distance + 1, self.d_head) * 0.02)
        self.value_distances = nn.Parameter(torch.randn(2 * max_distance + 1, self.d_head) * 0.02)

    def scores(
        self, queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B H K D"], mask: Tensor | None
    ) -> Float[Tensor, "B H Q K"]:
        """Score by q . (k + a^K) / sqrt(D)."""
        by_distance = queries @ self.key_distances.to(queries.dtype).T  # (B, H, Q, R)
        by_key = by_distance.gather(-1, self._distances(queries, keys, mask))
        return (dot_scores(queries, keys) + by_key) / self.d_head**0.5

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weighted sum of v + a^V."""
        weights = self.dropped_weights(queries, keys, mask)  # (B, H, Q, K)
        by_distance = weights.new_zeros(*weights.shape[:3], len(self.value_distances))
        by_distance = by_distance.scatter_add(-1, self._distances(queries, keys, mask), weights)
        by_distance = by_distance @ self.value_distances.to(weights.dtype)
        return (self.mix(weights, values) + by_distance).to(values.dtype)

    def _distances(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Int[Tensor, "B H Q K"]:
        distances = clipped_distances(*key_positions(mask, queries, keys), self.max_distance)
        return distances.unsqueeze(-3).expand(*queries.shape[:3], keys.shape[2])

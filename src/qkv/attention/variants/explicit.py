"""What variants share whose weights no fused kernel computes.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from jaxtyping import Float
from torch import Tensor

from qkv.attention.core import masked_softmax
from qkv.attention.masks import check_mask, combine_masks
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.scores import scaled_dot_scores


class ExplicitAttention(MultiHeadAttention):
    """Multi-head attention in plain sight: scores, mask, weights, mix. Time and memory O(Q K)."""

    def scores(
        self, queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B H K D"]
    ) -> Float[Tensor, "B H Q K"]:
        """Score each query against each key."""
        return scaled_dot_scores(queries, keys)

    def normalize(self, scores: Float[Tensor, "B H Q K"], mask: Tensor | None) -> Tensor:
        """Turn scores into weights: 0 where the mask does not allow."""
        return masked_softmax(scores, mask)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weights (B, H, Q, K)."""
        scores = self.scores(queries, keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1))
        if mask is not None:
            check_mask(mask, tuple(scores.shape))
        n_queries, n_keys = scores.shape[-2:]
        mask = combine_masks(
            mask, causal=self.causal, n_queries=n_queries, n_keys=n_keys, device=scores.device
        )
        return self.normalize(scores, mask)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values by the weights."""
        weights = self.weights(queries, keys, mask)
        return weights @ values.repeat_interleave(queries.shape[1] // values.shape[1], 1)

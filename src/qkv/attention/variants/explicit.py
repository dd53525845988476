"""The base class of variants whose weights no fused kernel computes.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qkv.attention.core import at_least_float32, masked_softmax
from qkv.attention.masks import check_mask, combine_masks
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.scores import scaled_dot_scores


class ExplicitAttention(MultiHeadAttention):
    """Multi-head attention, step by step: scores, mask, weights, sum. Time and memory O(Q K)."""

    def scores(
        self, queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B H K D"], mask: Tensor | None
    ) -> Float[Tensor, "B H Q K"]:
        """Score each query against each key; the mask shows which keys are padding."""
        return scaled_dot_scores(queries, keys)

    def normalize(self, scores: Float[Tensor, "B H Q K"], mask: Tensor | None) -> Tensor:
        """Convert scores into weights, 0 for masked keys."""
        return masked_softmax(scores, mask)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weights (B, H, Q, K), in float32 at least."""
        n_queries, n_keys = queries.shape[2], keys.shape[2]
        if mask is not None:
            check_mask(mask, (*queries.shape[:3], n_keys))
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
        scores = self.scores(at_least_float32(queries), at_least_float32(keys), mask)
        bias = self.score_bias(queries, keys, mask)
        scores = scores if bias is None else scores + bias
        mask = combine_masks(
            mask, causal=self.causal, n_queries=n_queries, n_keys=n_keys, device=scores.device
        )
        return self.normalize(scores, mask)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weighted sum of the values."""
        weights = self.dropped_weights(queries, keys, mask)
        return self.mix(weights, values).to(values.dtype)

    def dropped_weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weights, with dropout in training."""
        return F.dropout(self.weights(queries, keys, mask), self.active_dropout)

    def mix(
        self, weights: Float[Tensor, "B H Q K"], values: Float[Tensor, "B G K D"]
    ) -> Float[Tensor, "B H Q D"]:
        """Compute the weighted sum of the values, in the dtype of the weights."""
        values = values.repeat_interleave(weights.shape[1] // values.shape[1], 1)
        return weights @ values.to(weights.dtype)

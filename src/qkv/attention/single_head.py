"""Single-head global attention over a memory, as in recurrent models; subclasses define the score.

Shapes: B batch, Q queries, K keys (positions of the memory), D widths.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import MemoryCache
from qkv.attention.core import masked_softmax
from qkv.attention.masks import check_mask
from qkv.attention.record import Recorder


class SingleHeadAttention(nn.Module):
    """context_t = sum_s a_t(s) h_s, a_t = softmax_s(score(q_t, h_s)) (Luong et al. 2015, eq. 7).

    A subclass defines `scores`, and `keys` if part of the score can be computed once for all
    queries.
    """

    recorder: Recorder | None = None

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K Dk"]:
        """Compute the part of the score that depends on the memory alone, and is cached."""
        return memory

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dk"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score each query against each key; only location scores use the mask."""
        raise NotImplementedError(f"{type(self).__name__} does not define scores")

    def weights(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dk"],
        mask: Bool[Tensor, "..."] | None,
        positions: Int[Tensor, "..."] | None,
    ) -> Float[Tensor, "B 1 Q K"]:
        """Compute weights that sum to 1 over the keys, or to 0 if no key is allowed."""
        scores = self.scores(queries, keys, mask).unsqueeze(1)
        if mask is not None:
            check_mask(mask, tuple(scores.shape))
        return masked_softmax(scores, mask)

    def forward(
        self,
        x: Float[Tensor, "B Q Dq"],
        memory: Float[Tensor, "B K Dm"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: MemoryCache | None = None,
    ) -> Float[Tensor, "B Q Dm"]:
        """Compute the weighted sum of the memory for each query.

        Args:
            x: the queries, such as decoder states.
            memory: the encoder's annotations; None means x.
            mask: True = may attend, broadcastable to (B, 1, Q, K).
            positions: position of each query in its own sequence; used by local attention only.
            cache: stores the result of `keys` from the first call on.
        """
        source = x if memory is None else memory
        cache = MemoryCache() if cache is None else cache
        keys, values = cache.update(lambda: (self.keys(source), source))
        weights = self.weights(x, keys, mask, positions)
        if self.recorder is not None:
            self.recorder(weights)
        return weights.squeeze(1) @ values

"""Global attention of one head over a memory, as in recurrent models: all but the score function.

Shapes: B batch, Q queries, K keys (places of the memory), D widths.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import MemoryCache
from qkv.attention.core import masked_softmax
from qkv.attention.masks import check_mask
from qkv.attention.record import Recorder


class SingleHeadAttention(nn.Module):
    """context_t = sum_s a_t(s) h_s, a_t = softmax_s(score(q_t, h_s)) (Luong et al. 2015, eq. 7).

    A subclass says what the score is, and what of a key can be computed once for all queries.
    """

    recorder: Recorder | None = None

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K Dk"]:
        """Compute what the scores need of the memory; independent of the queries, hence cached."""
        return memory

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dk"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score each query against each key; only who counts places reads the mask."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its score is")

    def weights(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dk"],
        mask: Bool[Tensor, "..."] | None,
        positions: Int[Tensor, "..."] | None,
    ) -> Float[Tensor, "B 1 Q K"]:
        """Turn scores into weights that sum to 1 over the keys, to 0 where none is allowed."""
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
        """Mix the memory by how well each query fits it.

        Args:
            x: the queries, such as decoder states.
            memory: the encoder's annotations; x itself where None.
            mask: True = may attend, broadcastable to (B, 1, Q, K).
            positions: the place of each query in its own sequence; only local attention reads it.
            cache: keeps what `keys` computes, from the first call on.
        """
        source = x if memory is None else memory
        cache = MemoryCache() if cache is None else cache
        keys, values = cache.update(lambda: (self.keys(source), source))
        weights = self.weights(x, keys, mask, positions)
        if self.recorder is not None:
            self.recorder(weights)
        return weights.squeeze(1) @ values

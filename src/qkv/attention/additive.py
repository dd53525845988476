"""Additive attention.

Bahdanau, Cho and Bengio 2015, "Neural machine translation by jointly
learning to align and translate".
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention.scores import additive_scores
from qkv.attention.single_head import SingleHeadAttention


class AdditiveAttention(SingleHeadAttention):
    """score(s, h) = v^T tanh(W s + U h): a network with one hidden layer (appendix A.1.2).

    Args:
        d_query: width of the queries, the decoder's states s.
        d_memory: width of the memory, the encoder's annotations h.
        d_attention: width A of the hidden layer.
    """

    def __init__(self, d_query: int, d_memory: int, d_attention: int):
        super().__init__()
        self.query = nn.Linear(d_query, d_attention, bias=False)
        self.key = nn.Linear(d_memory, d_attention, bias=False)
        # The paper starts v at zero: then nothing but v has a gradient, and learning starts late.
        self.vector = nn.Parameter(torch.randn(d_attention) * d_attention**-0.5)

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K A"]:
        """Compute U h once for all decoding steps."""
        return self.key(memory)

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K A"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score by v^T tanh(W s + U h)."""
        return additive_scores(self.query(queries), keys, self.vector)

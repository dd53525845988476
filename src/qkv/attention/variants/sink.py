"""A learned sink: one extra logit per head that takes weight and adds no value.

OpenAI 2025, "gpt-oss-120b & gpt-oss-20b model card" ("a learned bias in the denominator of the
softmax"). Without it, models use their first tokens as sinks: Xiao et al. 2023, see `streaming`.
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention.core import mask_scores
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.explicit import ExplicitAttention


def sink_softmax(
    scores: Float[Tensor, "B H Q K"],
    sinks: Float[Tensor, " H"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H Q K"]:
    """Compute exp(s_j) / (exp(sink) + sum_k exp(s_k)): weights that sum to less than 1.

    In the mask, True = may attend. If no key is allowed, the sink takes all the weight.
    """
    sink = sinks[:, None, None].expand(*scores.shape[:-1], 1)  # (H,) -> (B, H, Q, 1)
    return torch.cat((mask_scores(scores, mask), sink), -1).softmax(-1)[..., :-1]


class SinkAttention(ExplicitAttention):
    """Attention with `sink_softmax`, which lets a head attend to almost nothing.

    Approaches standard attention as the sink approaches -inf; with a sink of 0, it equals attention
    with an additional key and value of zeros.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        options: see `MultiHeadAttention`.
    """

    def __init__(self, d_model: int, n_heads: int, **options: Unpack[AttentionOptions]):
        super().__init__(d_model, n_heads, **options)
        self.sinks = nn.Parameter(torch.zeros(n_heads))

    def normalize(self, scores: Float[Tensor, "B H Q K"], mask: Tensor | None) -> Tensor:
        """Let the sink compete with the keys."""
        return sink_softmax(scores, self.sinks, mask)

"""Attention with the score functions of Luong et al.

Luong, Pham and Manning 2015, "Effective approaches to attention-based neural machine translation",
section 3.1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention.masks import positions_from_mask, real_keys
from qkv.attention.scores import (
    additive_scores,
    dot_scores,
    location_scores,
)
from qkv.attention.single_head import SingleHeadAttention
from qkv.errors import ConfigError


class DotAttention(SingleHeadAttention):
    """score(q, k) = q . k: no parameters, so query and memory must have one width.

    Raises:
        ConfigError: if the widths differ.
    """

    def __init__(self, d_query: int, d_memory: int):
        super().__init__()
        if d_query != d_memory:
            raise ConfigError(
                f"dot scores compare vectors of one width, but the query has {d_query} and the "
                f"memory {d_memory}; use general scores, or project the memory"
            )

    def scores(
        self,
        queries: Float[Tensor, "B Q D"],
        keys: Float[Tensor, "B K D"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score by q . k."""
        return dot_scores(queries, keys)


class GeneralAttention(SingleHeadAttention):
    """score(q, k) = q^T W k: the dot product after a learned change of basis."""

    def __init__(self, d_query: int, d_memory: int):
        super().__init__()
        self.key = nn.Linear(d_memory, d_query, bias=False)

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K Dq"]:
        """Compute W k once for all decoding steps; q^T (W k) equals (q^T W) k."""
        return self.key(memory)

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dq"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score by q . (W k)."""
        return dot_scores(queries, keys)


class ConcatAttention(SingleHeadAttention):
    """score(q, k) = v^T tanh(W [q; k]), with W [q; k] computed as W_q q + W_k k."""

    def __init__(self, d_query: int, d_memory: int, d_attention: int):
        super().__init__()
        joint = nn.Linear(d_query + d_memory, d_attention, bias=False)
        self.weight = joint.weight  # (A, Dq + Dm)
        self.d_query = d_query
        self.vector = nn.Parameter(torch.randn(d_attention) * d_attention**-0.5)

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K A"]:
        """Compute W_k k once for all decoding steps."""
        return memory @ self.weight[:, self.d_query :].T

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K A"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score by v^T tanh(W_q q + W_k k)."""
        return additive_scores(queries @ self.weight[:, : self.d_query].T, keys, self.vector)


class LocationAttention(SingleHeadAttention):
    """score(q, k at position s) = (W q)_s: depends on the key's position, not on its content.

    Raises:
        LengthError: in `forward`, if the memory has more than `max_keys` real tokens.
    """

    def __init__(self, d_query: int, max_keys: int):
        super().__init__()
        self.weight = nn.Linear(d_query, max_keys, bias=False).weight  # (max_keys, Dq)

    def scores(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dm"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "B Q K"]:
        """Score by (W q)_s; padding has no position."""
        shape = (len(queries), 1, queries.shape[1], keys.shape[1])
        places = positions_from_mask(real_keys(mask, shape, queries.device))
        return location_scores(queries, self.weight, places)

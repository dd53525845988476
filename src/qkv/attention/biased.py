"""Attention with a bias that depends on distances (ALiBi, T5), in memory linear in the length.

The fused kernel never stores Q x K weights, but a bias of that size would defeat its purpose. The
bias is therefore computed for one chunk of queries at a time, and recomputed in the backward pass.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.attention.core import Mask, attention, lengths_are_open
from qkv.attention.masks import key_positions, whole_mask

# Positions of queries (*B, Q) and of keys (*B, K) -> (*B, H, Q, K).
PositionBias = Callable[[Tensor, Tensor], Tensor]

CHUNK = 256  # queries: twice as many are slower (their bias leaves the caches), half are no faster


def biased_attention(
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
    values: Float[Tensor, "B G K Dv"],
    position_bias: PositionBias,
    *,
    mask: Mask | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q Dv"]:
    """Compute self-attention with a position bias, one chunk of queries at a time; see `attention`.

    Positions count the real keys of a row; a key that the mask hides from every query is padding.

    Args:
        queries: queries of the last Q tokens.
        keys: keys of all K tokens.
        values: values of all K tokens.
        position_bias: the bias for the positions of queries and keys.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        causal: each query sees the keys up to its own position; a chunk skips all later ones.
        dropout: probability of dropping a weight, for training.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
    """
    queries_at, keys_at = key_positions(mask, queries, keys)
    mask = None if mask is None else whole_mask(mask, queries, keys)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    chunk = n_queries if lengths_are_open() or n_queries <= CHUNK else CHUNK

    def attend(start: int) -> Float[Tensor, "B H chunk Dv"]:
        end = start + chunk if start + chunk <= n_queries else n_queries
        n_met = n_keys - n_queries + end if causal else n_keys
        return attention(
            queries[:, :, start:end],
            keys[:, :, :n_met],
            values[:, :, :n_met],
            mask=None if mask is None else mask[..., start:end, :n_met],
            bias=position_bias(queries_at[..., start:end], keys_at[..., :n_met]),
            causal=causal,
            dropout=dropout,
        )

    if chunk is n_queries:
        return attend(0)
    starts = range(0, n_queries, chunk)
    if not torch.is_grad_enabled():
        return torch.cat([attend(start) for start in starts], 2)
    return torch.cat([checkpoint(attend, start, use_reentrant=False) for start in starts], 2)

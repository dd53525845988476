"""Attention that looks nearby, computed by chunks: time and memory linear in the length.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention.biased import PositionBias
from qkv.attention.core import Mask, attention
from qkv.attention.masks import key_positions, real_keys, whole_mask

# Positions of queries (*B, Q) and of keys (*B, K) -> who sees whom (*B, Q, K).
Pattern = Callable[[Tensor, Tensor], Tensor]

SMALLEST_CHUNK = 128  # of queries: below it, calling the kernel costs more than what it computes


def attention_by_chunks(
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
    values: Float[Tensor, "B G K Dv"],
    pattern: Pattern,
    *,
    reach: int,
    causal: bool,
    mask: Mask | None = None,
    n_first: int = 0,
    position_bias: PositionBias | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q Dv"]:
    """Attend as `attention` does under the mask `pattern`, one chunk of queries at a time.

        chunk 2 of 4:   f . n n n .     f the first keys, n neighbors; no later ones where causal

    Positions count the real keys of a row: one that the mask hides from every query is padding.

    Args:
        queries: of the last Q tokens.
        keys: of all K tokens.
        values: of all K tokens.
        pattern: True = may attend, for the positions of queries and keys.
        reach: how far from its own position a query sees, the first keys apart.
        causal: whether the pattern shows no later key.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        n_first: keys at the start that every chunk meets.
        position_bias: computes what is added to the scores from the positions of queries and keys.
        dropout: share of the weights that are dropped, for training.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
    """
    queries_at, _ = key_positions(mask, queries, keys)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    n_first = min(n_first, n_keys)
    if mask is not None:  # the real keys first: then each lies at its position
        real = real_keys(mask, (*queries.shape[:3], n_keys))
        order = (~real).long().argsort(dim=-1, stable=True)
        mask = _take(whole_mask(mask, queries, keys), order, 3)
        keys, values = _take(keys, order, 2), _take(values, order, 2)
    chunk, heads = max(reach, SMALLEST_CHUNK), []
    for start in range(0, n_queries, chunk):
        rows = slice(start, min(start + chunk, n_queries))
        asking_at = queries_at[..., rows]
        width = reach + rows.stop - start + (0 if causal else reach)
        near = asking_at[..., :1] - reach + torch.arange(width, device=keys.device)
        exists = (near >= n_first) & (near < n_keys)  # the first keys are met already
        first = torch.arange(n_first, device=keys.device).expand(*near.shape[:-1], -1)
        at = torch.cat((first, near.clamp(0, n_keys - 1)), -1)
        exists = torch.cat((torch.ones_like(first, dtype=torch.bool), exists), -1)
        allowed = (pattern(asking_at, at) & exists[..., None, :]).unsqueeze(-3)
        if mask is not None:
            allowed = allowed & _take(mask[:, :, rows], at, 3)
        k, v = _take(keys, at, 2), _take(values, at, 2)
        bias = None if position_bias is None else position_bias(asking_at, at)
        heads.append(attention(queries[:, :, rows], k, v, mask=allowed, bias=bias, dropout=dropout))
    return torch.cat(heads, 2)


def _take(x: Tensor, at: Int[Tensor, "*B n"], dim: int) -> Tensor:
    """Select along an axis of (b, heads, ..., ...): for all rows, or for each row its own."""
    if at.ndim == 1:
        return x.index_select(dim, at)
    return x.take_along_dim(at[:, None, None] if dim == 3 else at[:, None, :, None], dim)

"""Attention to nearby keys, computed in chunks: time and memory are linear in the length.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention.biased import PositionBias
from qkv.attention.core import Mask, attention
from qkv.attention.masks import key_positions, real_keys, whole_mask

# Positions of queries (*B, Q) and of keys (*B, K) -> mask (*B, Q, K), True = may attend.
Pattern = Callable[[Tensor, Tensor], Tensor]

SMALLEST_CHUNK = 128  # queries: with fewer, calling the kernel costs more than its computation


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
    """Compute `attention` with the mask `pattern`, one chunk of queries at a time.

        chunk 2 of 4:   f . n n n .     f the first keys, n neighbors; no later keys if causal

    Positions count the real keys of a row; a key that the mask hides from every query is padding.

    Args:
        queries: queries of the last Q tokens.
        keys: keys of all K tokens.
        values: values of all K tokens.
        pattern: True = may attend, for the positions of queries and keys.
        reach: largest distance that a query sees, apart from the first keys.
        causal: whether the pattern hides all later keys.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        n_first: number of keys at the start that every chunk includes.
        position_bias: computes the bias of the scores from the positions of queries and keys.
        dropout: probability of dropping a weight, for training.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
    """
    queries_at, _ = key_positions(mask, queries, keys)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    n_first = min(n_first, n_keys)
    if mask is not None:  # move the real keys to the front, so that each index equals its position
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
        exists = (near >= n_first) & (near < n_keys)  # the first keys are included already
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
    """Select along an axis of (b, heads, ..., ...), with shared or per-row indices."""
    if at.ndim == 1:
        return x.index_select(dim, at)
    return x.take_along_dim(at[:, None, None] if dim == 3 else at[:, None, :, None], dim)

"""Attention that looks nearby, computed by chunks: time and memory linear in the length.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.attention.core import Mask, attention
from qkv.attention.masks import places, whole_mask

Pattern = Callable[[Tensor, Tensor], Tensor]  # places of queries and keys -> who sees whom (Q, K)

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
) -> Float[Tensor, "B H Q Dv"]:
    """Attend as `attention` does under the mask `pattern`, one chunk of queries at a time.

        chunk 2 of 4:   f . n n n .     f the first keys, n neighbours; no later ones where causal

    Args:
        queries: of the last Q places.
        keys: of all K places.
        values: of all K places.
        pattern: True = may attend, for given places.
        reach: how far from its own place a query sees, the first keys apart.
        causal: whether the pattern shows no later key.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        n_first: keys at the start that every chunk meets.
    """
    mask = whole_mask(mask, queries, keys)
    queries_at, keys_at = places(queries, keys)
    n_queries, chunk = len(queries_at), max(reach, SMALLEST_CHUNK)
    n_first = min(n_first, len(keys_at))
    # No window reaches further back; what is left of the past is the first chunk's left neighbour.
    near = [x[..., -(n_queries + reach) :, :] for x in (keys, values)]
    sizes = [min(chunk, n_queries - start) for start in range(0, n_queries, chunk)]
    sizes = [near[0].shape[2] - n_queries, *sizes]
    chunks = [x.split(sizes, 2) for x in near]
    chunks_at = keys_at[-sum(sizes) :].split(sizes)
    heads = []
    for i, (asking, asking_at) in enumerate(
        zip(queries.split(chunk, 2), queries_at.split(chunk), strict=True)
    ):
        neighbours = slice(i, i + (2 if causal else 3))
        at = torch.cat((keys_at[:n_first], *chunks_at[neighbours]))
        allowed = pattern(asking_at, at) & mask[..., (asking_at - queries_at[0])[:, None], at]
        allowed[..., n_first:] &= at[n_first:] >= n_first  # met already
        k, v = (
            torch.cat((whole[:, :, :n_first], *parts[neighbours]), 2)
            for whole, parts in zip((keys, values), chunks, strict=True)
        )
        heads.append(attention(asking, k, v, mask=allowed))
    return torch.cat(heads, 2)

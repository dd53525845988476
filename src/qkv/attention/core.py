"""Softmax attention: once as the mathematics, once as the fused kernel; tested to be equal.

Shapes: B batch, H query heads, G key heads (G divides H), Q queries, K keys, D head width.
"""

import math

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.attention.masks import check_mask, combine_masks
from qkv.attention.scores import scaled_dot_scores

Mask = Bool[Tensor, "..."]


def mask_scores(scores: Float[Tensor, "..."], mask: Mask | None) -> Float[Tensor, "..."]:
    """Set the scores of what may not be attended to -inf: the only place that writes it."""
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def masked_softmax(scores: Float[Tensor, "..."], mask: Mask | None) -> Float[Tensor, "..."]:
    """Softmax over the last axis among the keys that the mask allows.

    A query that may attend to nothing gets weights of zero (their sum is 0, not 1), and a gradient
    of zero: a softmax over minus infinities alone would be NaN, forward and backward.
    """
    if mask is None:
        return scores.softmax(-1)
    nothing = ~mask.any(-1, keepdim=True)
    return mask_scores(scores, mask | nothing).softmax(-1).masked_fill(nothing, 0.0)


def attention_weights(
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
    *,
    mask: Mask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "B H Q K"]:
    """softmax(Q K^T / sqrt(d_k)): the weights of attention (Vaswani et al. 2017, eq. 1).

    Args:
        queries: what is asked.
        keys: what answers; each of the G heads serves H / G query heads.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        bias: added to the scores, broadcastable likewise (ALiBi, T5).
        causal: each query sees the keys up to its own; the last query is level with the last key.
        scale: replaces 1 / sqrt(D).

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
    """
    n_heads, n_queries, n_keys = queries.shape[1], queries.shape[2], keys.shape[2]
    keys = keys.repeat_interleave(n_heads // keys.shape[1], dim=1)  # (B, G, K, D) -> (B, H, K, D)
    scores = scaled_dot_scores(queries, keys, scale)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        check_mask(mask, tuple(scores.shape))
    mask = combine_masks(
        mask, causal=causal, n_queries=n_queries, n_keys=n_keys, device=scores.device
    )
    return masked_softmax(scores, mask)


def explicit_attention(
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
    values: Float[Tensor, "B G K Dv"],
    *,
    mask: Mask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "B H Q Dv"]:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V (Vaswani et al. 2017, eq. 1)."""
    weights = attention_weights(queries, keys, mask=mask, bias=bias, causal=causal, scale=scale)
    return weights @ values.repeat_interleave(queries.shape[1] // values.shape[1], dim=1)


def attention(
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
    values: Float[Tensor, "B G K Dv"],
    *,
    mask: Mask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q Dv"]:
    """The function `explicit_attention` by the fused kernel, which never stores Q x K weights.

    The arguments and errors are those of `attention_weights`, and `dropout`: the share of weights
    that are dropped, for training.
    """
    n_heads, n_queries, n_keys = queries.shape[1], queries.shape[2], keys.shape[2]
    if mask is not None:
        check_mask(mask, (queries.shape[0], n_heads, n_queries, n_keys))
    # The kernel's causality counts from the first key: it is ours only where the ends agree.
    plain_causal = causal and mask is None and bias is None and n_queries == n_keys
    if not plain_causal:
        mask = combine_masks(
            mask, causal=causal, n_queries=n_queries, n_keys=n_keys, device=queries.device
        )
    if bias is not None:
        mask = mask_scores(bias, mask)
    # A mask of three axes, and values of another width than the keys, send the kernel of a CPU to
    # a path that stores all the weights: so there are four, and zeros fill up the narrower ones.
    mask = None if mask is None else mask[(None,) * (4 - mask.ndim)]
    scale = 1 / math.sqrt(queries.shape[-1]) if scale is None else scale
    d_value, width = values.shape[-1], max(queries.shape[-1], values.shape[-1])
    heads = F.scaled_dot_product_attention(
        _widen(queries, width),
        _widen(keys, width),
        _widen(values, width),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=plain_causal,
        scale=scale,
        enable_gqa=keys.shape[1] != n_heads,
    )
    return heads if d_value == width else heads[..., :d_value]


def _widen(x: Float[Tensor, "B H L D"], width: int) -> Float[Tensor, "B H L width"]:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))

"""Softmax attention, written out as mathematics and with the fused kernel; tests compare the two.

Shapes: B batch, H query heads, G key heads (G divides H), Q queries, K keys, D head width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.attention.masks import broadcasts, check_mask, combine_masks, with_four_axes
from qkv.attention.scores import scaled_dot_scores
from qkv.errors import ShapeError

Mask = Bool[Tensor, "..."]


def mask_scores(scores: Float[Tensor, "..."], mask: Mask | None) -> Float[Tensor, "..."]:
    """Set masked scores to -inf. No other function does."""
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def masked_softmax(scores: Float[Tensor, "..."], mask: Mask | None) -> Float[Tensor, "..."]:
    """Softmax over the last axis, restricted to the keys that the mask allows.

    A query that may attend to nothing gets weights of zero (their sum is 0, not 1), and a gradient
    of zero: a softmax over minus infinities alone would be NaN, forward and backward.
    """
    if mask is None:
        return scores.softmax(-1)
    nothing = ~mask.any(-1, keepdim=True)
    return mask_scores(scores, mask | nothing).softmax(-1).masked_fill(nothing, 0.0)


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Upcast half precision: 16-bit scores overflow, or lose differences that matter."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def lengths_are_open() -> bool:
    """Return whether the model is being traced or exported: no loop may depend on a length."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return tracing or torch.compiler.is_exporting()


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

    Half precision is computed, and the weights are returned, in float32.

    Args:
        queries: one vector per query and head.
        keys: one vector per key and head; each of the G key heads serves H / G query heads.
        mask: True = may attend, broadcastable to (B, H, Q, K).
        bias: added to the scores, broadcastable to (B, H, Q, K) (ALiBi, T5).
        causal: each query sees the keys up to its own position; the last query is aligned with the
            last key.
        scale: replaces 1 / sqrt(D).

    Raises:
        ShapeError: if queries and keys do not match, if the mask is not boolean, or if mask or bias
            does not broadcast to (B, H, Q, K).
    """
    check_shapes(queries, keys, keys, mask, bias)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)  # -> (B, H, K, D)
    scores = scaled_dot_scores(at_least_float32(queries), at_least_float32(keys), scale)
    if bias is not None:
        scores = scores + bias
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
    check_shapes(queries, keys, values, mask, bias)
    weights = attention_weights(queries, keys, mask=mask, bias=bias, causal=causal, scale=scale)
    values = values.repeat_interleave(queries.shape[1] // values.shape[1], dim=1)
    return (weights @ values.to(weights.dtype)).to(values.dtype)


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
    """Compute `explicit_attention` with the fused kernel, which never stores the Q x K weights.

    See `attention_weights` for the other arguments and the errors; `dropout` is the probability of
    dropping a weight, for training.
    """
    check_shapes(queries, keys, values, mask, bias)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    if not dropout and _fused_is_slower(queries, n_keys):
        with torch.autocast("cpu", enabled=False):
            return explicit_attention(
                queries, keys, values, mask=mask, bias=bias, causal=causal, scale=scale
            )
    # The kernel aligns its causal mask to the first key, which equals ours only for equal lengths.
    # An `if`, because compilers and tracers would pass the comparison itself to the kernel as a
    # symbol.
    if causal and mask is None and bias is None and n_queries == n_keys:
        plain_causal = True
    else:
        plain_causal = False
        mask = combine_masks(
            mask, causal=causal, n_queries=n_queries, n_keys=n_keys, device=queries.device
        )
    if bias is not None:
        mask = mask_scores(bias, mask)
    # On a CPU, a mask of three axes, or values of a different width than the keys, select a kernel
    # that stores all the weights. Hence four axes, and zeros that widen the narrower tensors.
    mask = None if mask is None else with_four_axes(mask)
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
        enable_gqa=bool(keys.shape[1] != queries.shape[1]),
    )
    return heads if d_value == width else heads[..., :d_value]


def _fused_is_slower(queries: Float[Tensor, "B H Q D"], n_keys: int) -> bool:
    """Return whether the weights fit into the cache, and the gradient is of 16 bits on a CPU.

    There the fused kernel, with its backward, takes 6 (20 positions) to 1.4 times (128) as long;
    from 256 on it is faster (Intel Xeon with AMX, one thread).
    """
    return (
        queries.device.type == "cpu"
        and queries.dtype in (torch.bfloat16, torch.float16)
        and queries.requires_grad
        and torch.is_grad_enabled()
        and not lengths_are_open()
        and queries.shape[2] * n_keys <= 128 * 128
    )


def _widen(x: Float[Tensor, "B H L D"], width: int) -> Float[Tensor, "B H L width"]:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def check_shapes(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, bias: Tensor | None
) -> None:
    """Check the shapes (B, H, Q, D), (B, G, K, D), (B, G, K, Dv) and (B, H, Q, K).

    Raises:
        ShapeError: if they do not match; states the actual and expected shapes and the likely
            cause.
    """
    shapes = [tuple(x.shape) for x in (queries, keys, values)]
    if any(len(shape) != 4 for shape in shapes):
        raise ShapeError(
            f"queries, keys and values have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}; "
            "expected four axes each: (batch, heads, length, width)"
        )
    dtypes = [x.dtype for x in (queries, keys, values, bias) if x is not None]
    if len(set(dtypes)) > 1 and not torch.is_autocast_enabled(queries.device.type):
        raise ShapeError(
            f"queries, keys, values and bias have the dtypes {', '.join(map(str, dtypes))}; "
            "expected one dtype (convert the model with model.to(dtype), or use torch.autocast)"
        )
    batch, n_heads, n_queries, width = shapes[0]
    n_groups, n_keys = shapes[1][1:3]
    if shapes[1] != (batch, n_groups, n_keys, width) or shapes[2][:3] != shapes[1][:3]:
        raise ShapeError(
            f"queries have shape {shapes[0]}, keys {shapes[1]} and values {shapes[2]}; expected "
            "(B, H, Q, D), (B, G, K, D) and (B, G, K, Dv): one batch, as many values as keys, and "
            "keys as wide as queries"
        )
    if n_groups == 0 or n_heads % n_groups:
        raise ShapeError(
            f"{n_heads} query heads and {n_groups} key heads: each key head serves an equal group "
            "of query heads, so the second must divide the first"
        )
    if mask is not None:
        check_mask(mask, (batch, n_heads, n_queries, n_keys))
    if bias is not None and not broadcasts(bias, (batch, n_heads, n_queries, n_keys)):
        raise ShapeError(
            f"the bias has shape {tuple(bias.shape)}, which does not broadcast to "
            f"(batch, heads, queries, keys) = {(batch, n_heads, n_queries, n_keys)}"
        )

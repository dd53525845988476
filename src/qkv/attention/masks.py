"""Masks: boolean, True = may attend, broadcastable to (batch, heads, queries, keys).

This is the polarity of `torch.nn.functional.scaled_dot_product_attention` and the opposite of
`torch.nn.MultiheadAttention`. Callers of models pass a `token_mask` of shape (batch, length), True
= a real token.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ShapeError


def causal_mask(
    n_queries: int, n_keys: int, device: torch.device | None = None
) -> Bool[Tensor, "queries keys"]:
    """Let each query see its own key and earlier keys; the last query is aligned with the last key.

    With this alignment, a chunk of queries over a longer cache sees its whole past:

        3 queries, 5 keys:   1 1 1 0 0
                             1 1 1 1 0
                             1 1 1 1 1
    """
    everything = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return everything.tril(n_keys - n_queries)


def sliding_window_mask(
    queries: Int[Tensor, "*batch Q"],
    keys: Int[Tensor, "*batch K"],
    *,
    window: int,
    causal: bool = False,
) -> Bool[Tensor, "*batch Q K"]:
    """Let the query at position i see keys i - window to i + window (to i if `causal`)."""
    distances = keys[..., None, :] - queries[..., :, None]
    return (distances >= -window) & (distances <= (0 if causal else window))


def attention_mask(
    token_mask: Bool[Tensor, "batch keys"] | None,
) -> Bool[Tensor, "batch 1 1 keys"] | None:
    """Convert a token mask into an attention mask: every query may see every real key.

    Raises:
        ShapeError: if the mask is not boolean or not of shape (batch, length).
    """
    if token_mask is None:
        return None
    if token_mask.dtype != torch.bool or token_mask.ndim != 2:
        raise ShapeError(
            f"token_mask has dtype {token_mask.dtype} and shape {tuple(token_mask.shape)}; "
            "expected a boolean (batch, length), True = a real token"
        )
    return token_mask[:, None, None, :]


def combine_masks(
    mask: Bool[Tensor, "..."] | None,
    *,
    causal: bool,
    n_queries: int,
    n_keys: int,
    device: torch.device | None = None,
) -> Bool[Tensor, "..."] | None:
    """Combine a mask with the causal mask.

    A single query is always the last token and sees all keys, so decoding token by token needs no
    causal mask.
    """
    if not causal or n_queries == 1:
        return mask
    past = causal_mask(n_queries, n_keys, device)
    return past if mask is None else mask & past


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a mask is boolean and broadcasts to `shape`.

    Raises:
        ShapeError: stating the actual and expected values and the likely cause.
    """
    if mask.dtype != torch.bool:
        raise ShapeError(
            f"the mask has dtype {mask.dtype}; expected torch.bool, True = may attend "
            "(zeros and minus infinities are a bias; nn.MultiheadAttention's True is the opposite)"
        )
    if not broadcasts(mask, shape):
        raise ShapeError(
            f"the mask has shape {tuple(mask.shape)}, which does not broadcast to "
            f"(batch, heads, queries, keys) = {shape}; a token_mask (batch, length) becomes one by "
            "attention_mask(token_mask)"
        )


def broadcasts(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor broadcasts to `shape` without widening it."""
    # Two comparisons, because `in` distinguishes a compiler's symbol from an equal number.
    return x.ndim <= len(shape) and all(
        size == 1 or size == wanted
        for size, wanted in zip(reversed(x.shape), reversed(shape), strict=False)
    )


def check_tokens(tokens: Tensor, n_rows: int | None = None) -> None:
    """Check that `tokens` is a batch of ids with the number of rows of its source or state.

    Args:
        tokens: ids, (batch, length).
        n_rows: number of rows of the source or decoding state; None if there is none.

    Raises:
        ShapeError: stating the actual and expected values and the likely cause.
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ShapeError(
            f"tokens have dtype {tokens.dtype} and shape {tuple(tokens.shape)}; expected integer "
            "ids of shape (batch, length) (for a single text, pass tokens[None])"
        )
    if n_rows is not None and tokens.shape[0] != n_rows:
        raise ShapeError(
            f"tokens have {tokens.shape[0]} rows, but their source or state has "
            f"{n_rows}; expected the same number (do both come from the same batch?)"
        )


def check_token_mask(token_mask: Tensor, tokens: Int[Tensor, "batch length"]) -> None:
    """Check that a token_mask is boolean and has the shape of the tokens.

    Raises:
        ShapeError: stating the actual and expected dtype and shape.
    """
    if token_mask.dtype != torch.bool or token_mask.shape != tokens.shape:
        raise ShapeError(
            f"token_mask has dtype {token_mask.dtype} and shape {tuple(token_mask.shape)}; "
            f"expected a boolean {tuple(tokens.shape)}, True = a real token "
            "(does the mask belong to a different batch?)"
        )


def positions_from_mask(token_mask: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Count real tokens from 0, so that left padding does not change any position.

    Padding gets the position of the real token before it, or 0; it is never used.
    """
    return (token_mask.long().cumsum(-1) - 1).clamp(min=0)


def token_positions(
    tokens: Int[Tensor, "batch length"], token_mask: Bool[Tensor, "batch length"] | None
) -> Int[Tensor, "*batch length"]:
    """Return the position of each token: (length,) without a mask, else (batch, length).

    Raises:
        ShapeError: if the tokens are not ids of shape (batch, length), or the mask does not match.
    """
    check_tokens(tokens)
    if token_mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device)
    check_token_mask(token_mask, tokens)
    return positions_from_mask(token_mask)


def real_keys(
    mask: Bool[Tensor, "..."] | None, shape: tuple[int, ...], device: torch.device | None = None
) -> Bool[Tensor, "batch keys"]:
    """Return which keys of each row at least one query may attend to; the others are padding.

    Args:
        mask: True = may attend; None lets every query attend to every key.
        shape: (batch, heads, queries, keys), to which the mask must broadcast.
        device: device of the result if there is no mask.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to `shape`.
    """
    if mask is None:
        return torch.ones(shape[0], shape[3], dtype=torch.bool, device=device)
    check_mask(mask, shape)
    return with_four_axes(mask).any(2).any(1).expand(shape[0], shape[3])


def key_positions(
    mask: Bool[Tensor, "..."] | None,
    queries: Float[Tensor, "B H Q _"],
    keys: Float[Tensor, "B G K _"],
) -> tuple[Int[Tensor, "*batch Q"], Int[Tensor, "*batch K"]]:
    """Return the positions of queries and keys in self-attention; the last two are equal.

    Without a mask these are the indices, (Q,) and (K,). With a mask they count the real keys of
    each row, (B, Q) and (B, K), so that padding, even between tokens, does not change the result of
    a row.

    Args:
        mask: True = may attend, broadcastable to (B, H, Q, K).
        queries: queries of the last Q tokens.
        keys: keys of all K tokens.

    Raises:
        ShapeError: if the mask is not boolean or does not broadcast to (B, H, Q, K).
    """
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    if mask is None:
        positions = torch.arange(n_keys, device=keys.device)
    else:
        positions = positions_from_mask(real_keys(mask, (*queries.shape[:3], n_keys)))
    return positions[..., n_keys - n_queries :], positions


def with_four_axes(mask: Tensor) -> Tensor:
    """Add the leading axes of a mask or bias that broadcasting implies."""
    return mask[(None,) * (4 - mask.ndim)]


def whole_mask(
    mask: Bool[Tensor, "..."] | None,
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
) -> Bool[Tensor, "b h Q K"]:
    """Check a mask (True = may attend) and expand it to all queries and keys, as a view."""
    shape = (*queries.shape[:3], keys.shape[2])
    whole = torch.ones(1, 1, dtype=torch.bool, device=queries.device)
    if mask is not None:
        check_mask(mask, shape)
        whole = mask
    whole = with_four_axes(whole)
    return whole.expand(*whole.shape[:2], *shape[2:])

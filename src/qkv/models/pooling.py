"""Pool a text to one vector: its first token, its last token, or the mean of all tokens.

Shapes: B batch, L tokens, D d_model. The mask is True for real tokens; None if all are.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def first_token(
    hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
) -> Float[Tensor, "B D"]:
    """Return the first real token of each row, wherever the padding is (BERT, ViT)."""
    if token_mask is None:
        return hidden[:, 0]
    first = token_mask.long().argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), first]


def last_token(
    hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
) -> Float[Tensor, "B D"]:
    """Return the last real token of each row, which sees all others in a causal model."""
    if token_mask is None:
        return hidden[:, -1]
    last = hidden.shape[1] - 1 - token_mask.long().flip(1).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def mean_token(
    hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
) -> Float[Tensor, "B D"]:
    """Average the real tokens of each row (Reimers and Gurevych 2019, section 3)."""
    if token_mask is None:
        return hidden.mean(1)
    weights = token_mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)

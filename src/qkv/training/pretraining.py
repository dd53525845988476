"""Losses of the pretraining objectives: of hidden tokens, of next tokens.

Two have none of their own: the batches of span corruption are pairs, for `pair_loss`, and next
sentences are classes of pairs, for `classification_loss`. Scores of the
vocabulary are computed only where a token is asked for.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.training.losses import linear_cross_entropy

# Legend of the shapes: N places at which a token is asked for, d width.


@runtime_checkable
class TokenBatch(Protocol):
    """Texts, and the places (into the flattened texts) where a token is asked for."""

    tokens: Int[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    segments: Int[Tensor, "batch length"] | None
    places: Int[Tensor, " targets"]
    targets: Int[Tensor, " targets"]


@runtime_checkable
class PreTrainingBatch(TokenBatch, Protocol):
    """Pairs of sentences in which tokens are hidden, and the class of each pair."""

    classes: Int[Tensor, " batch"]


def masked_loss(model: nn.Module, batch: TokenBatch) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the hidden tokens.

    Devlin et al. 2019, section 3.1, task 1. The model is a `MaskedLM`, or has its `head`.
    """
    hidden = model.hidden(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)
    return _hidden_tokens(model, hidden, batch)


def causal_loss(model: nn.Module, batch: TokenBatch) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the next tokens (Radford et al. 2018, eq. 1).

    The padding stands on the right, where no real token sees it: no mask is needed.
    """
    hidden = model.hidden(batch.tokens).flatten(0, 1).index_select(0, batch.places)  # (N, d)
    head = model.head
    return linear_cross_entropy(hidden, head.weight, head.bias, batch.targets)


def pretraining_loss(model: nn.Module, batch: PreTrainingBatch) -> Float[Tensor, ""]:
    """Both at once: divided by the number of hidden tokens, it is the sum of the two means.

    Devlin et al. 2019, appendix A.2. The model is a `PreTraining`.
    """
    hidden = model.hidden(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)
    tokens = _hidden_tokens(model, hidden, batch)
    pairs = F.cross_entropy(model.score_pairs(hidden, batch.token_mask), batch.classes)
    return tokens + len(batch.targets) * pairs


def _hidden_tokens(
    model: nn.Module, hidden: Float[Tensor, "batch length d"], batch: TokenBatch
) -> Float[Tensor, ""]:
    asked = hidden.flatten(0, 1).index_select(0, batch.places)  # (N, d)
    head = model.head
    return linear_cross_entropy(
        head.transform(asked), head.output.weight, head.output.bias, batch.targets
    )

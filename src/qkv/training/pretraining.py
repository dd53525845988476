"""Losses of masked and causal language modeling.

The logits are computed only at the positions to predict.
"""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from qkv.data.conversations import PackedBatch
from qkv.data.pretraining import TokenBatch
from qkv.models.causal import CausalLM
from qkv.models.heads import MaskedLM
from qkv.training.losses import linear_cross_entropy

# Shapes: N positions to predict, d width.


def masked_loss(model: MaskedLM, batch: TokenBatch) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the masked tokens.

    Devlin et al. 2019, section 3.1, task 1. The model is a `MaskedLM` or has the same `head`.
    """
    hidden = model.hidden(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)
    masked = hidden.flatten(0, 1).index_select(0, batch.positions)  # (N, d)
    head = model.head
    return linear_cross_entropy(
        head.transform(masked), head.output.weight, head.output.bias, batch.targets
    )


def causal_loss(model: CausalLM, batch: TokenBatch) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the next tokens (Radford et al. 2018, eq. 1).

    Padding is on the right, where no real token attends to it: no mask is needed.
    """
    hidden = model.hidden(batch.tokens).flatten(0, 1).index_select(0, batch.positions)  # (N, d)
    head = cast(nn.Linear, model.head)
    return linear_cross_entropy(hidden, head.weight, head.bias, batch.targets)


def packed_loss(model: CausalLM, batch: PackedBatch) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the answers' tokens in packed rows (Krell et al. 2021).

    Each token sees only its own text, at its own positions, so packing does not change the loss.
    """
    hidden = model.hidden(batch.tokens, positions=batch.positions, texts=batch.texts)
    head = cast(nn.Linear, model.head)
    chosen = hidden.flatten(0, 1).index_select(0, batch.at)
    return linear_cross_entropy(chosen, head.weight, head.bias, batch.targets)

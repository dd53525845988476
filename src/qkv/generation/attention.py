"""Attention weights of finished answers."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from qkv.attention.record import AttentionRecord, record_attention
from qkv.generation.answer import Answer
from qkv.generation.state import Decodable
from qkv.generation.stepping import Start, read_start


def attention_of(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    answers: Sequence[Answer],
    *,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: Start,
    layers: Sequence[str] | None = None,
) -> AttentionRecord:
    """Record the attention of one pass over answers from any decoding strategy.

    While decoding, rows leave the batch and hypotheses are reordered. A single pass afterwards
    computes the same weights (cached == uncached) for all rows.

    Args:
        model: model in evaluation mode.
        source: source ids, one row per answer.
        answers: one answer per row.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder; see `Stepper`.
        layers: names of the attention modules to record; None means all.

    Returns:
        Weights by module, (batch, heads, queries, keys). If `start` is a single id, query t of a
        decoder predicts token t; in a causal model, queries and keys include the prompt.
    """
    begun = read_start(start, source)
    longest = max((len(answer.tokens) for answer in answers), default=1)
    # The last token was generated but never fed to the model.
    written = [answer.tokens[:-1] for answer in answers]
    rows = [tokens + [-1] * (longest - 1 - len(tokens)) for tokens in written]
    tokens = torch.cat((begun, begun.new_tensor(rows).reshape(len(source), -1)), 1)
    with (
        torch.inference_mode(),
        record_attention(cast(nn.Module, model), layers=layers) as weights,
    ):
        state = model.start(source, token_mask)
        model.step(tokens.clamp(min=0), state, tokens >= 0)
    return weights

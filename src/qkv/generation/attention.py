"""Attention on request: what a model looked at while it wrote an answer."""

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
    """Record one pass over answers, whichever way they were found.

    While decoding, rows leave and hypotheses change places; one pass afterwards computes the same
    weights (cached == uncached), all rows side by side.

    Args:
        model: in evaluation mode.
        source: what was read, one row an answer.
        answers: one a row.
        token_mask: True = a real token of the source; by default all.
        start: what the decoder read first.
        layers: names of the attention modules to record; None records all.

    Returns:
        Weights by module, (batch, heads, queries, keys). With one id of `start`, query t of a
        decoder is the look before token t; a causal model's prompt is among queries and keys.
    """
    begun = read_start(start, source)
    longest = max((len(answer.tokens) for answer in answers), default=1)
    # The last token was written and not read.
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

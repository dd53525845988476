"""Greedy decoding: at each step the most probable token."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.errors import ConfigError
from qkv.generation.state import Decodable

# Finished rows leave when they are one in so many: leaving copies the memory of those that stay.
LEAVING = 4


def greedy(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    *,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: int,
    stop: int,
    max_length: int,
) -> Int[Tensor, "batch length"]:
    """The most probable token at each step, for each row until its `stop`.

    Finished rows leave the batch, so that the others decode faster.

    Args:
        model: in evaluation mode.
        source: what is read, one row an answer.
        token_mask: True = a real token of the source; by default all.
        start: id that the decoder reads first; it is not part of the answer.
        stop: id that ends an answer, is its last token, and fills the shorter answers.
        max_length: most tokens of an answer, `stop` included.

    Raises:
        ConfigError: `max_length` leaves no place for a token.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}, expected at least 1: `stop` takes a place")
    # Made outside of inference mode: answers may be trained on.
    answers = source.new_full((len(source), max_length), stop)
    longest = 0
    with torch.inference_mode():
        state = model.start(source, token_mask)
        rows = torch.arange(len(source), device=source.device)
        tokens = torch.full_like(rows, start)
        finished = torch.zeros_like(rows, dtype=torch.bool)
        while len(rows) and longest < max_length:
            tokens = model.step(tokens[:, None], state)[:, -1].argmax(-1)
            tokens = torch.where(finished, stop, tokens)
            answers[rows, longest] = tokens
            longest += 1
            finished = tokens == stop
            if LEAVING * finished.sum() >= len(rows):
                going = (~finished).nonzero().squeeze(1)
                state.reorder(going)
                rows, tokens, finished = rows[going], tokens[going], finished[going]
    return answers[:, :longest]

"""Greedy decoding: at each step the most probable token."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.generation.processors import Processor
from qkv.generation.state import Decodable
from qkv.generation.stepping import Start, Stepper, Stop


def greedy(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    *,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    processors: Sequence[Processor] = (),
) -> Int[Tensor, "batch length"]:
    """The most probable token at each step, for each row until its `stop`.

    Finished rows leave the batch, so that the others decode faster. The answers' log-probabilities
    are those of `sample` at temperature 0.

    Args:
        model: in evaluation mode.
        source: what is read, one row an answer.
        token_mask: True = a real token of the source; by default all.
        start: id that the decoder reads first, for all rows or one a row, or several ids a row; it
            is not part of the answer.
        stop: id, or ids, that end an answer; its last token. The first fills the shorter answers.
        max_length: most tokens of an answer, `stop` included.
        processors: change the logits, in this order.

    Raises:
        ConfigError: `max_length` leaves no place for a token.
        LengthError: a row of `start` is empty.
        VocabularyError: the processors leave no token.
    """
    with torch.inference_mode():
        stepper = Stepper(
            model,
            source,
            token_mask=token_mask,
            start=start,
            stop=stop,
            max_length=max_length,
            processors=processors,
        )
        while stepper.unfinished:
            stepper.append(stepper.apply_processors(stepper.logits()).argmax(-1))
    # Copied outside of inference mode: answers may be trained on.
    return stepper.padded().clone()

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
    """Generate the most probable token at each step, until each row's `stop`.

    Finished rows leave the batch, so that the others decode faster. For log-probabilities, use
    `sample` at temperature 0.

    Args:
        model: model in evaluation mode.
        source: source ids, one row per answer.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder, which are not part of the answer; see `Stepper`.
        stop: id or ids that end an answer and are part of it. The first pads shorter answers.
        max_length: maximum number of tokens of an answer, including `stop`.
        processors: applied to the logits in this order.

    Raises:
        ConfigError: `max_length` is below 1.
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
    # Copied outside of inference mode, so that answers may be used in training.
    return stepper.padded().clone()

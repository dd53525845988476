"""Sampling: draw each token from the model's distribution, modified by processors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError
from qkv.generation.answer import Answer
from qkv.generation.processors import (
    Processor,
    min_p,
    no_repeat_ngram,
    process,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)
from qkv.generation.state import Decodable
from qkv.generation.stepping import Ends, Start, Stepper, Stop


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling options; `processors` returns the logit processors in their usual order.

    Raises:
        ConfigError: if a value is out of range.
    """

    temperature: float = 1.0  # 0: greedy decoding
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        self.processors()

    def processors(self, constraints: Sequence[Processor] = ()) -> list[Processor]:
        """Return the processors: constraints first, then the temperature, then truncation.

        Args:
            constraints: further processors that forbid or force tokens.
        """
        chain = list[Processor]()
        if self.repetition_penalty != 1:
            chain.append(repetition_penalty(self.repetition_penalty))
        if self.no_repeat_ngram is not None:
            chain.append(no_repeat_ngram(self.no_repeat_ngram))
        chain.extend(constraints)
        if self.temperature != 1:
            chain.append(temperature(self.temperature))
        if self.top_k is not None:
            chain.append(top_k(self.top_k))
        if self.top_p is not None:
            chain.append(top_p(self.top_p))
        if self.min_p is not None:
            chain.append(min_p(self.min_p))
        return chain


def sample(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    *,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    seeds: Sequence[int],
    processors: Sequence[Processor] = (),
    ends: Ends | None = None,
) -> list[Answer]:
    """Draw each token from the distribution after processors.

    An answer depends only on its source and its seed, not on the rest of the batch.

    Args:
        model: model in evaluation mode.
        source: source ids, one row per answer; repeat a row for several answers.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder; see `Stepper`.
        stop: id or ids that end an answer.
        max_length: maximum number of tokens of an answer, including `stop`.
        seeds: one seed per row.
        processors: usually those of `Sampling(...).processors()`.
        ends: called with an answer's tokens after each step; True ends the answer.

    Raises:
        ConfigError: `max_length` is below 1, or there is not one seed per row.
        LengthError: a row of `start` is empty.
        VocabularyError: the processors leave no token.
    """
    uniforms = uniform_noise(seeds, source, max_length)
    with torch.inference_mode():
        stepper = Stepper(
            model,
            source,
            token_mask=token_mask,
            start=start,
            stop=stop,
            max_length=max_length,
            processors=processors,
            ends=ends,
        )
        while stepper.unfinished:
            draw_next(stepper, uniforms)
    return stepper.answers()


def draw_next(
    stepper: Stepper, uniforms: Float[Tensor, "batch length"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw and append a token for each row; return the tokens and the model's log-probabilities."""
    logits = stepper.logits()
    probabilities = stepper.apply_processors(logits.clone()).softmax(-1)
    tokens = draw(probabilities, uniforms[stepper.rows, stepper.length])
    logprobs = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    stepper.append(tokens, logprobs)
    return tokens, logprobs


class Drawing:
    """Draws the tokens of one answer, as `sample` does, from the logits of a running batch.

    Args:
        start: initial ids of the decoder, which the processors see.
        max_length: maximum number of tokens of the answer.
        seed: random seed; None chooses the most probable token.
        processors: usually those of `Sampling(...).processors()`.
    """

    def __init__(
        self,
        start: Sequence[int],
        max_length: int,
        seed: int | None,
        processors: Sequence[Processor],
    ):
        nothing = torch.zeros(1, 0, dtype=torch.long)
        self._uniforms = None if seed is None else uniform_noise([seed], nothing, max_length)
        self._tokens = torch.tensor([[*start, *[-1] * max_length]])
        self._begun, self._n = len(start), 0
        self._processors = processors

    def __call__(self, logits: Float[Tensor, " V"]) -> int:
        """Return the next token."""
        written = self._tokens[:, : self._begun + self._n]
        row = process(self._processors, written, logits.cpu()[None].clone())
        if self._uniforms is None:
            token = row.argmax(-1)
        else:
            token = draw(row.softmax(-1), self._uniforms[:, self._n])
        self._tokens[:, self._begun + self._n] = token
        self._n += 1
        return int(token)


def draw(
    probabilities: Float[Tensor, "rows V"], uniforms: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """Return the first token whose cumulative probability exceeds the uniform number."""
    sums = probabilities.to(uniforms).cumsum(-1)
    total = sums[:, -1:]
    # In float32 a number may round to 1, which no cumulative sum exceeds.
    return ((sums <= uniforms[:, None] * total) & (sums < total)).sum(-1)


def uniform_noise(
    seeds: Sequence[int], source: Int[Tensor, "batch _"], max_length: int
) -> Float[Tensor, "batch length"]:
    """Return uniform random numbers for each row from its seed, the same on every device.

    Raises:
        ConfigError: if there is not one seed per row.
    """
    if len(seeds) != len(source):
        raise ConfigError(f"{len(seeds)} seeds for {len(source)} rows, expected one per row")
    numbers = [
        torch.rand(max_length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    table = torch.stack(numbers) if numbers else torch.zeros(0, max_length, dtype=torch.float64)
    # MPS does not support float64.
    dtype = torch.float32 if source.device.type == "mps" else torch.float64
    return table.to(source.device, dtype)

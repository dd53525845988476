"""Processors that forbid or force tokens, as used by the configs of published models.

A `place` is an index into the new tokens, from 0; `begun` is the number of columns of `tokens`
before them.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.errors import ConfigError
from qkv.generation.processors import (
    FORBIDDEN,
    Processor,
    check_penalty,
    completing,
    marked,
    penalized,
)


def forbid(ids: Iterable[int]) -> Processor:
    """Forbid these tokens at every position."""
    ids = tuple(ids)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        return logits.masked_fill(_among(ids, logits), FORBIDDEN)

    return processor


def forbid_at(ids: Iterable[int], *, place: int, begun: int) -> Processor:
    """Forbid these tokens at one position."""
    forbidding = forbid(ids)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        return forbidding(tokens, logits) if tokens.shape[1] == begun + place else logits

    return processor


def minimum_length(n: int, stops: Iterable[int], *, begun: int) -> Processor:
    """Forbid the stop tokens until `n` tokens have been generated."""
    forbidding = forbid(stops)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        return forbidding(tokens, logits) if tokens.shape[1] < begun + n else logits

    return processor


def force_at(ids: Iterable[int], *, place: int, begun: int) -> Processor:
    """Force one of these tokens, with equal probability, at one position."""
    ids = tuple(ids)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        if tokens.shape[1] != begun + place:
            return logits
        return torch.full_like(logits, FORBIDDEN).masked_fill(_among(ids, logits), 0.0)

    return processor


def bad_words(words: Iterable[Sequence[int]]) -> Processor:
    """Forbid the token that would complete one of these sequences of one or more tokens.

    Raises:
        ConfigError: if a sequence is empty.
    """
    words = [tuple(word) for word in words]
    if () in words:
        raise ConfigError("a bad word is empty; expected at least one token")
    alone = forbid(word[0] for word in words if len(word) == 1)
    longer = [torch.tensor(word)[None] for word in words if len(word) > 1]

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        logits = alone(tokens, logits)
        for word in longer:
            logits = logits.masked_fill(completing(word.to(tokens), tokens, logits), FORBIDDEN)
        return logits

    return processor


def no_ngram_of(source: Sequence[int], n: int) -> Processor:
    """Forbid the token that would complete an n-gram of the source, shared by all rows.

    Raises:
        ConfigError: if `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"n is {n}, expected at least 1")
    ngrams = torch.tensor(source, dtype=torch.long).unfold(0, n, 1) if len(source) >= n else None

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        if ngrams is None:
            return logits
        return logits.masked_fill(completing(ngrams.to(tokens), tokens, logits), FORBIDDEN)

    return processor


def source_penalty(source: Sequence[int], penalty: float) -> Processor:
    """Make tokens of the source more probable if `penalty` is above 1; all rows share the source.

    Raises:
        ConfigError: if the penalty is not above 0.
    """
    check_penalty("source_penalty", penalty)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        ids = tokens.new_tensor(source)[None].expand(len(tokens), -1)
        return torch.where(marked(ids, logits), penalized(logits, 1 / penalty), logits)

    return processor


def renormalize(tokens: Tensor, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
    """Renormalize logits to log-probabilities, after earlier processors."""
    return logits.log_softmax(-1)


def _among(ids: Sequence[int], like: Float[Tensor, "rows V"]) -> Bool[Tensor, " V"]:
    """Return a mask of these tokens, ignoring ids outside the vocabulary."""
    every = torch.arange(like.shape[1], device=like.device)
    return torch.isin(every, torch.tensor(ids, dtype=torch.long, device=like.device))

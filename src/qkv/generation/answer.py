"""What decoding hands back where more than the tokens is asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Token(NamedTuple):
    """One decoded token."""

    id: int
    logprob: float  # nats; what the model gave it, before any processor


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One decoded sequence.

    Args:
        tokens: without `start`; the `stop` that ended it is the last.
        logprobs: the log-probability (nats) that the model gave each token, before any processor.
        score: what answers to one source are ranked by; the sum of `logprobs`, except in beam
            search with penalties or processors.
        ended: by `stop` or `ends`, and not cut off at `max_length`.
    """

    tokens: list[int]
    logprobs: list[float]
    score: float
    ended: bool

    @property
    def text(self) -> list[int]:
        """The tokens without the `stop` that ended them."""
        return self.tokens[:-1] if self.ended else self.tokens

    @classmethod
    def of(cls, tokens: Iterable[Token], stops: Sequence[int]) -> "Answer":
        """Collect an answer's tokens."""
        found = list(tokens)
        ids, logprobs = [token.id for token in found], [token.logprob for token in found]
        return cls(tokens=ids, logprobs=logprobs, score=sum(logprobs), ended=ids[-1] in stops)

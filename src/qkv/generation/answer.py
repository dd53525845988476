"""The results of decoding: tokens with their log-probabilities, and answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Token(NamedTuple):
    """One decoded token."""

    id: int
    logprob: float  # in nats, from the model, before any processor


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One decoded sequence.

    Args:
        tokens: ids without `start`; the last is the `stop` that ended it.
        logprobs: the model's log-probability (nats) of each token, before any processor.
        score: ranks the answers to one source; the sum of `logprobs`, except in beam search with
            penalties or processors.
        ended: whether it ended by `stop` or `ends`, rather than at `max_length`.
    """

    tokens: list[int]
    logprobs: list[float]
    score: float
    ended: bool

    @property
    def text(self) -> list[int]:
        """The tokens without the final `stop`."""
        return self.tokens[:-1] if self.ended else self.tokens

    @classmethod
    def of(cls, tokens: Iterable[Token], stops: Sequence[int]) -> "Answer":
        """Collect the tokens of an answer."""
        collected = list(tokens)
        ids, logprobs = [token.id for token in collected], [token.logprob for token in collected]
        return cls(tokens=ids, logprobs=logprobs, score=sum(logprobs), ended=ids[-1] in stops)

"""A request to a running batch: a prompt, and the tokens of its answer as they come."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ConfigError, LengthError
from qkv.generation.state import Decodable
from qkv.generation.stepping import Ends

Choose = Callable[[Float[Tensor, " V"]], int]


def most_probable(logits: Float[Tensor, " V"]) -> int:
    """Choose greedily."""
    return int(logits.argmax())


@dataclass(eq=False)
class Request:
    """A prompt, and the tokens of its answer as they come; iterate over it from another thread.

    Args:
        prompt: ids.
        stop: ids that end the answer and are part of it.
        max_length: maximum number of tokens of the answer.
        choose: chooses a token from the logits, with its own random numbers if any.
        ends: called with the answer's ids after each token; True ends the answer.
    """

    prompt: Sequence[int]
    stop: frozenset[int] | set[int]
    max_length: int
    choose: Choose = most_probable
    ends: Ends | None = None
    cancelled: bool = field(default=False, init=False)
    answer: list[int] = field(default_factory=list[int], init=False)  # so far
    _tokens: "queue.SimpleQueue[int | BaseException | None]" = field(
        default_factory=queue.SimpleQueue, init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not self.prompt:
            raise LengthError("the prompt is empty: decoding must begin with a token")
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}, expected at least 1")

    def __iter__(self) -> Iterator[int]:
        """Wait for each token; raise the error that ended the request, if one did."""
        while (token := self._tokens.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token

    def cancel(self) -> None:
        """Ask for no more tokens; the row leaves the batch before the next step."""
        self.cancelled = True

    def add(self, token: int) -> bool:
        """Take a token; return whether the answer has ended."""
        self.answer.append(token)
        self.tell(token)
        ended = token in self.stop or len(self.answer) == self.max_length
        ended = ended or (self.ends is not None and self.ends(self.answer))
        return ended and self.close()

    def close(self, error: BaseException | None = None) -> bool:
        """End the answer, with an error if it did not end by itself."""
        self.tell(error)  # None: there are no more tokens
        return True

    def tell(self, token: int | BaseException | None) -> None:
        """Pass a token, or the end, to the waiting thread; called in the model's thread."""
        self._tokens.put(token)


@dataclass
class Reading:
    """A prompt that is being read: its state, and the number of tokens read."""

    request: Request
    state: Any = None
    n_read: int = 0

    @property
    def complete(self) -> bool:
        """Whether all tokens but the last were read."""
        return self.n_read >= len(self.request.prompt) - 1

    def read(self, model: Decodable, most: int, device: torch.device | str) -> int:
        """Read up to `most` tokens of the prompt, except its last; return their number."""
        if self.request.cancelled:
            return 0
        ids = list(self.request.prompt[self.n_read : -1][:most])
        chunk = torch.tensor([ids], dtype=torch.long, device=device)
        if self.state is None:
            self.state = model.start(chunk)
        else:
            model.step(chunk, self.state)
        self.n_read += len(ids)
        return len(ids)

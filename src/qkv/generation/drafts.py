"""Drafts for speculative decoding: from a smaller model, or copied from the text so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError
from qkv.generation.processors import Processor, process
from qkv.generation.sampling import draw
from qkv.generation.state import Decodable, State
from qkv.generation.stepping import read


class Chooser:
    """Draws the tokens of one sequence, after processors, with the sequence's own random numbers.

    Args:
        processors: applied in this order.
        stops: ids after which nothing is drafted.
        seed: random seed of the sequence.
    """

    def __init__(self, processors: Sequence[Processor], stops: list[int], seed: int):
        self.processors, self.stops = processors, stops
        self._generator = torch.Generator().manual_seed(seed)

    def distribution(
        self, tokens: Int[Tensor, "1 t"], logits: Float[Tensor, "1 V"]
    ) -> Float[Tensor, " V"]:
        """Return the processed probabilities of the next token, on the CPU in float64."""
        return process(self.processors, tokens, logits)[0].cpu().double().softmax(-1)

    def draw(self, probabilities: Float[Tensor, " V"]) -> int:
        """Draw a token; the probabilities need not sum to 1."""
        return int(draw(probabilities[None], self._uniform()))

    def verify(self, p: Float[Tensor, " V"], token: int, q: Float[Tensor, " V"] | None) -> int:
        """Accept or replace a token drawn from q, so that the result has the distribution p.

        Leviathan et al. 2023, algorithm 1: it is accepted with probability min(1, p / q); otherwise
        another is drawn from max(0, p - q). If q is None, it is 1 at the token.
        """
        if q is None:
            q = torch.zeros_like(p)
            q[token] = 1
        if len(p) != len(q):
            raise ConfigError(
                f"the draft has {len(q)} tokens and the model {len(p)}: both need the same "
                "vocabulary"
            )
        if self._uniform() * q[token] < p[token]:
            return token
        return self.draw((p - q).clamp(min=0))

    def _uniform(self) -> Float[Tensor, "1"]:
        return torch.rand(1, generator=self._generator, dtype=torch.float64)


class Drafted(NamedTuple):
    """A proposed token."""

    token: int
    probabilities: Float[Tensor, " V"] | None  # its distribution; None: deterministic


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens of one sequence."""

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Propose up to n tokens to follow these, none after a `stop`."""
        ...


@runtime_checkable
class Draft(Protocol):
    """Creates a drafter for each sequence."""

    def start(
        self, source: Int[Tensor, "1 source"], token_mask: Bool[Tensor, "1 source"] | None
    ) -> Drafter:
        """Process the model's source (mask: True = a real token)."""
        ...


@dataclass(frozen=True)
class ModelDraft:
    """A smaller model with the same vocabulary draws the draft, token by token.

    Args:
        model: model in evaluation mode; gets the same source.
    """

    model: Decodable

    def start(self, source: Tensor, token_mask: Tensor | None) -> "ModelDrafter":
        """Process the source with the smaller model."""
        return ModelDrafter(self.model, self.model.start(source, token_mask))


@dataclass
class ModelDrafter:
    """The smaller model's state for one sequence."""

    model: Decodable
    state: State

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Rewind rejected tokens, process their replacements, and draft the next tokens."""
        self.state.rewind(min(self.state.length, tokens.shape[1] - 1))
        drafted: list[Drafted] = []
        while len(drafted) < n:
            logits = read(self.model, tokens[:, self.state.length :], self.state)
            q = chooser.distribution(tokens, logits)
            drafted.append(Drafted(chooser.draw(q), q))
            if drafted[-1].token in chooser.stops:
                break
            tokens = torch.cat((tokens, tokens.new_tensor([[drafted[-1].token]])), 1)
        return drafted


@dataclass(frozen=True)
class PromptLookup:
    """Drafts the tokens that followed an earlier occurrence of the last tokens.

    Saxena 2023, "Prompt lookup decoding" (github.com/apoorvumang/prompt-lookup-decoding).

    Args:
        longest: length of the longest suffix to look up; shorter ones are tried next.
        in_source: also search the source (a prompt, or a text to summarize). False if the source
            has another vocabulary.
    """

    longest: int = 3
    in_source: bool = True

    def __post_init__(self) -> None:
        """Check the length."""
        if self.longest < 1:
            raise ConfigError(f"longest is {self.longest}, expected at least 1 token to look up")

    def start(self, source: Tensor, token_mask: Tensor | None) -> "PromptReader":
        """Store the source's real tokens."""
        real = source[0] if token_mask is None else source[0, token_mask[0]]
        return PromptReader(self.longest, real.tolist() if self.in_source else [])


@dataclass
class PromptReader:
    """The text before one sequence."""

    longest: int
    before: list[int]

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Find the last earlier occurrence of the longest possible suffix."""
        text = self.before + tokens[0].tolist()
        for size in range(min(self.longest, len(text) - 1), 0, -1):
            for at in range(len(text) - size - 1, -1, -1):
                if text[at : at + size] == text[-size:]:
                    following = text[at + size : at + size + n]
                    ends = [i + 1 for i, token in enumerate(following) if token in chooser.stops]
                    return [Drafted(token, None) for token in following[: min(ends, default=n)]]
        return []

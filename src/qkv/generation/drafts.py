"""What runs ahead in speculative decoding: a smaller model, or a look into the text so far."""

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
    """Chooses tokens of one sequence from what the processors leave, by the sequence's own numbers.

    Args:
        processors: applied in this order.
        stops: ids after which nothing is drafted.
        seed: of the sequence.
    """

    def __init__(self, processors: Sequence[Processor], stops: list[int], seed: int):
        self.processors, self.stops = processors, stops
        self._generator = torch.Generator().manual_seed(seed)

    def distribution(
        self, tokens: Int[Tensor, "1 t"], logits: Float[Tensor, "1 V"]
    ) -> Float[Tensor, " V"]:
        """The probabilities of the token after these, as processed: on the CPU, in float64."""
        return process(self.processors, tokens, logits)[0].cpu().double().softmax(-1)

    def draw(self, probabilities: Float[Tensor, " V"]) -> int:
        """Draw a token; the probabilities may have any sum."""
        return int(draw(probabilities[None], self._uniform()))

    def verify(self, p: Float[Tensor, " V"], token: int, q: Float[Tensor, " V"] | None) -> int:
        """Keep a token that was drawn from q, or replace it, such that the outcome is drawn from p.

        Leviathan et al. 2023, algorithm 1: it is kept with probability min(1, p / q), and otherwise
        another is drawn from max(0, p - q). Where the draft was certain, q is 1 at the token.
        """
        if q is None:
            q = torch.zeros_like(p)
            q[token] = 1
        if len(p) != len(q):
            raise ConfigError(
                f"the draft predicts {len(q)} tokens and the model {len(p)}: both need the same "
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
    probabilities: Float[Tensor, " V"] | None  # what it was drawn from; None: it was certain


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens of one sequence."""

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Propose up to n tokens to follow these, none after a `stop`."""
        ...


@runtime_checkable
class Draft(Protocol):
    """Makes a drafter for each sequence."""

    def start(
        self, source: Int[Tensor, "1 source"], token_mask: Bool[Tensor, "1 source"] | None
    ) -> Drafter:
        """Read what the model reads (mask: True = a real token)."""
        ...


@dataclass(frozen=True)
class ModelDraft:
    """A smaller model of the same vocabulary draws the draft, token by token.

    Args:
        model: in evaluation mode; reads the same source.
    """

    model: Decodable

    def start(self, source: Tensor, token_mask: Tensor | None) -> "ModelDrafter":
        """Let the smaller model read the source."""
        return ModelDrafter(self.model, self.model.start(source, token_mask))


@dataclass
class ModelDrafter:
    """The smaller model's memory of one sequence."""

    model: Decodable
    state: State

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Forget what was not kept, read what came instead, and go on from there."""
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
    """The text so far is the draft: what followed when its last tokens stood there before.

    Saxena 2023, "Prompt lookup decoding" (github.com/apoorvumang/prompt-lookup-decoding).

    Args:
        longest: most tokens that must be the same; fewer are tried after it.
        in_source: look into the source as well: a prompt, or a text to summarize. False where the
            source has another vocabulary.
    """

    longest: int = 3
    in_source: bool = True

    def __post_init__(self) -> None:
        """Check the length."""
        if self.longest < 1:
            raise ConfigError(f"longest is {self.longest}, expected at least 1 token to look up")

    def start(self, source: Tensor, token_mask: Tensor | None) -> "PromptReader":
        """Keep the source's real tokens."""
        real = source[0] if token_mask is None else source[0, token_mask[0]]
        return PromptReader(self.longest, real.tolist() if self.in_source else [])


@dataclass
class PromptReader:
    """What stands before one sequence."""

    longest: int
    before: list[int]

    def propose(self, tokens: Int[Tensor, "1 t"], n: int, chooser: Chooser) -> list[Drafted]:
        """Find the last place where the longest end of the text has stood before."""
        text = self.before + tokens[0].tolist()
        for size in range(min(self.longest, len(text) - 1), 0, -1):
            for at in range(len(text) - size - 1, -1, -1):
                if text[at : at + size] == text[-size:]:
                    found = text[at + size : at + size + n]
                    ends = [i + 1 for i, token in enumerate(found) if token in chooser.stops]
                    return [Drafted(token, None) for token in found[: min(ends, default=n)]]
        return []

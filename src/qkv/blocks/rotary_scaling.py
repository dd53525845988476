"""Scaling of rotary positions for texts longer than in training: pairs rotate more slowly.

A pair with frequency f makes L * f / (2 pi) turns in L tokens. A pair that makes many turns has
seen every angle in training; a slower one would meet new angles, so its frequency is reduced. Most
kinds always do so; two do so only for texts longer than in training. Shapes: P pairs, L tokens.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Frequencies, per row if they depend on its length; and a factor for the rotated vectors.
Scaled = tuple[Float[Tensor, "*any P"], float]
Frequencies = Float[Tensor, " P"]
Positions = Int[Tensor, "*batch L"] | None  # of all tokens, for kinds that need the length


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Divides all frequencies, like dividing positions (Chen et al. 2023, section 2.3)."""

    factor: float

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Divide every frequency."""
        return frequencies / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class TurnsScaling:
    """Divides the frequencies of slow pairs, with a transition linear in the number of turns.

    Grattafiori et al. 2024, "The Llama 3 herd of models", as published with version 3.1.
    """

    factor: float
    original_length: int  # in training
    few_turns: float = 1.0  # pairs with at most this many turns in that length are slowed
    many_turns: float = 4.0  # pairs with at least this many are unchanged

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Divide the frequencies of slow pairs."""
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = ((turns - self.few_turns) / (self.many_turns - self.few_turns)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor), 1.0


@dataclass(frozen=True, kw_only=True)
class YaRNScaling:
    """Divides the frequencies of slow pairs, with a transition linear in the pair's index.

    Peng et al. 2023, "YaRN: efficient context window extension", sections 3.2 and 3.4.
    """

    factor: float
    original_length: int
    few_turns: float = 1.0  # the paper's alpha
    many_turns: float = 32.0  # the paper's beta
    whole_pairs: bool = True  # the transition begins and ends at a whole index
    magnitude: float | None = None  # factor of rotated vectors; None: 0.1 ln(factor) + 1
    # If both are set, the ratio of 0.1 m ln(factor) + 1 for the two m (DeepSeek-AI 2024).
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Divide the frequencies of slow pairs, and increase the scores."""
        n_pairs = len(frequencies)

        def pair(turns: float) -> float:  # index i of the pair with that many turns
            return n_pairs * math.log(self.original_length / (2 * math.pi * turns), base)

        first, last = pair(self.many_turns), pair(self.few_turns)
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * n_pairs - 1)
        pairs = torch.arange(n_pairs, device=frequencies.device, dtype=frequencies.dtype)
        slowed = ((pairs - first) / (last - first or 1e-3)).clamp(0, 1)
        return frequencies * (1 - slowed + slowed / self.factor), self._magnitude()

    def _magnitude(self) -> float:
        if self.magnitude is not None:
            return self.magnitude

        def grown(m: float) -> float:
            return 0.1 * m * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.mscale and self.mscale_all_dim:
            return grown(self.mscale) / grown(self.mscale_all_dim)
        return grown(1.0)


@dataclass(frozen=True, kw_only=True)
class DynamicScaling:
    """Raises the base with the length, so that the slowest pair turns as far as in training.

    "NTK-aware" scaling in its dynamic form (Peng et al. 2023, sections 3.1 and 3.3).
    """

    factor: float
    original_length: int

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Reduce the frequencies for texts longer than in training, depending on their length.

        The base becomes base * g^(D / (D - 2)) with g = factor * length / original_length - (factor
        - 1).
        """
        if positions is None:
            return frequencies, 1.0
        longer = _lengths(positions).clamp(min=self.original_length).to(frequencies.dtype)
        growth = self.factor * longer / self.original_length - (self.factor - 1)
        n_pairs = len(frequencies)
        pairs = torch.arange(n_pairs, device=frequencies.device, dtype=frequencies.dtype)
        return frequencies * growth ** (-pairs / max(n_pairs - 1, 1)), 1.0

    def turns_otherwise(
        self, past: Int[Tensor, "*batch"], total: Int[Tensor, "*batch"]
    ) -> Bool[Tensor, "*batch"]:
        """Return whether the angles for `past` tokens differ from those for `total` tokens."""
        return (past > 0) & (total > past) & (total > self.original_length)


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """Divides each frequency by its own divisor; texts longer than in training have a second set.

    Ding et al. 2024, "LongRoPE: extending LLM context window beyond 2 million tokens".
    """

    short: tuple[float, ...]  # one divisor per pair
    long: tuple[float, ...]
    original_length: int
    factor: float  # ratio of the longest text to those in training
    magnitude: float | None = None  # None: sqrt(1 + ln(factor) / ln(original_length))

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Divide the frequencies by the divisors for this length."""
        short, long = (
            torch.tensor(divisors, device=frequencies.device, dtype=frequencies.dtype)
            for divisors in (self.short, self.long)
        )
        divisors = short
        if positions is not None:
            divisors = torch.where(_lengths(positions) > self.original_length, long, short)
        magnitude = self.magnitude
        if magnitude is None:
            magnitude = 1.0
            if self.factor > 1:
                magnitude = math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))
        return frequencies / divisors, magnitude

    def turns_otherwise(
        self, past: Int[Tensor, "*batch"], total: Int[Tensor, "*batch"]
    ) -> Bool[Tensor, "*batch"]:
        """Return whether the angles for `past` tokens differ from those for `total` tokens."""
        return (past > 0) & (past <= self.original_length) & (total > self.original_length)


def _lengths(positions: Int[Tensor, "*batch L"]) -> Int[Tensor, "*batch 1 1"]:
    """Return the number of tokens of each text: the last position plus one."""
    return positions.amax(-1)[..., None, None] + 1


ByLength = DynamicScaling | LongRopeScaling
RotaryScaling = LinearScaling | TurnsScaling | YaRNScaling | ByLength

"""Rotary positions beyond the lengths of training: the pairs turn more slowly.

A pair with frequency f turns L * f / (2 pi) times in L tokens. One that turned often has met every
angle in training; one that did not would meet new ones, and is slowed. Most kinds slow it whatever
is read; two do so only for texts that are longer than those of training. Shapes: P pairs, L tokens.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Frequencies, of each row its own where they depend on its length; a factor of what is turned.
Scaled = tuple[Float[Tensor, "*any P"], float]
Frequencies = Float[Tensor, " P"]
Positions = Int[Tensor, "*batch L"] | None  # of all tokens of a text, for kinds that ask its length


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Divides all frequencies, as if positions were divided (Chen et al. 2023, section 2.3)."""

    factor: float

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Slow every pair."""
        return frequencies / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class TurnsScaling:
    """Divides the frequencies of pairs that turn seldom; a mixture linear in the number of turns.

    Grattafiori et al. 2024, "The Llama 3 herd of models", as published with version 3.1.
    """

    factor: float
    original_length: int  # of training
    few_turns: float = 1.0  # in that length: so many or fewer are slowed
    many_turns: float = 4.0  # so many or more are kept

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Slow the pairs that turn seldom."""
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = ((turns - self.few_turns) / (self.many_turns - self.few_turns)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor), 1.0


@dataclass(frozen=True, kw_only=True)
class YaRNScaling:
    """Divides the frequencies of pairs that turn seldom; a mixture linear in the pair's number.

    Peng et al. 2023, "YaRN: efficient context window extension", sections 3.2 and 3.4.
    """

    factor: float
    original_length: int
    few_turns: float = 1.0  # the paper's alpha
    many_turns: float = 32.0  # the paper's beta
    whole_pairs: bool = True  # the mixture begins and ends at a whole number
    magnitude: float | None = None  # of turned queries and keys; 0.1 ln(factor) + 1 where None
    # Or a ratio, where both are given: of 0.1 m ln(factor) + 1 for the two m (DeepSeek-AI 2024).
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Slow the pairs that turn seldom, and make the scores larger."""
        n_pairs = len(frequencies)

        def pair(turns: float) -> float:  # number i of the pair that turns so often: i = P at base
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
    """Raises the base by the length of the text: the slowest pair turns as far as in training.

    "NTK-aware" scaling in its dynamic form (Peng et al. 2023, sections 3.1 and 3.3).
    """

    factor: float
    original_length: int

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Slow the pairs of texts that are longer than those of training, the more so the longer.

        Base * g^(D / (D - 2)) with g = factor * length / original_length - (factor - 1).
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
        """Tell whether `past` tokens were turned by other angles than all of `total` would be."""
        return (past > 0) & (total > past) & (total > self.original_length)


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """Divides each frequency by a number of its own, texts longer than those of training by others.

    Ding et al. 2024, "LongRoPE: extending LLM context window beyond 2 million tokens".
    """

    short: tuple[float, ...]  # one divisor a pair
    long: tuple[float, ...]
    original_length: int
    factor: float  # by how much longer texts may be
    magnitude: float | None = None  # sqrt(1 + ln(factor) / ln(original_length)) where None

    def __call__(
        self, frequencies: Frequencies, base: float, positions: Positions = None
    ) -> Scaled:
        """Slow the pairs by the divisors for this length."""
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
        """Tell whether `past` tokens were turned by other angles than all of `total` would be."""
        return (past > 0) & (past <= self.original_length) & (total > self.original_length)


def _lengths(positions: Int[Tensor, "*batch L"]) -> Int[Tensor, "*batch 1 1"]:
    """Count the tokens of each text: the last position and one."""
    return positions.amax(-1)[..., None, None] + 1


ByLength = DynamicScaling | LongRopeScaling
RotaryScaling = LinearScaling | TurnsScaling | YaRNScaling | ByLength

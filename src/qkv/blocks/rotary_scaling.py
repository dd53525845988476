"""Rotary positions beyond the lengths of training: the pairs turn more slowly.

A pair with frequency f turns L * f / (2 pi) times in L tokens. One that turned often has met every
angle in training; one that did not would meet new ones, and is slowed. Shapes: P pairs.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Scaled = tuple[Float[Tensor, " P"], float]  # frequencies, and a factor of turned queries and keys


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Divides all frequencies, as if positions were divided (Chen et al. 2023, section 2.3)."""

    factor: float

    def __call__(self, frequencies: Float[Tensor, " P"], base: float) -> Scaled:
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

    def __call__(self, frequencies: Float[Tensor, " P"], base: float) -> Scaled:
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

    def __call__(self, frequencies: Float[Tensor, " P"], base: float) -> Scaled:
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
        magnitude = self.magnitude
        if magnitude is None:
            magnitude = 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0
        return frequencies * (1 - slowed + slowed / self.factor), magnitude


RotaryScaling = LinearScaling | TurnsScaling | YaRNScaling

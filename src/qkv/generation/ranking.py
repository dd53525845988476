"""The score and the stopping rule of beam search (Wu et al. 2016, section 7, "GNMT")."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, finfo

from qkv.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Beam:
    """The size, score and stopping rule of beam search.

    The search for a source ends when no unfinished hypothesis can become one of the `n_best`, or,
    with `early_stopping`, once there are `size` answers: faster, but with possibly worse answers.

    Raises:
        ConfigError: if values are out of range or contradict each other.
    """

    size: int = 4
    n_best: int = 1
    length_penalty: float = 0.0  # alpha of eq. 14; above 0 favors longer answers
    # gnmt: lp = ((5 + |Y|) / 6)^alpha; power: lp = |Y|^alpha, as in Marian and transformers.
    length_rule: Literal["gnmt", "power"] = "gnmt"
    coverage_penalty: float = 0.0  # beta of eq. 15; above 0 penalizes unattended source tokens
    # Name of the attention module for eq. 15, as in `record_attention`; its heads are averaged.
    coverage_layer: str | None = None
    early_stopping: bool = False

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        if self.size < 1:
            raise ConfigError(f"a beam of size {self.size}, expected at least 1 (1 is greedy)")
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"n_best is {self.n_best}, expected 1 to {self.size}, the size of the beam"
            )
        if self.length_rule not in ("gnmt", "power"):
            raise ConfigError(f"length_rule is {self.length_rule!r}, expected 'gnmt' or 'power'")
        if self.coverage_penalty < 0:
            raise ConfigError(f"coverage_penalty is {self.coverage_penalty}, expected at least 0")
        if (self.coverage_penalty > 0) != (self.coverage_layer is not None):
            raise ConfigError(
                f"coverage_penalty is {self.coverage_penalty} and coverage_layer "
                f"{self.coverage_layer!r}: a penalty above 0 needs the name of an attention to the "
                "source, such as 'decoder.blocks.5.cross_attention', and 0 needs None"
            )

    def normalized(self, total: float, length: int) -> float:
        """Divide a log-probability by lp (eq. 14)."""
        base = (5 + length) / 6 if self.length_rule == "gnmt" else length
        return total / base**self.length_penalty

    def attainable(self, total: float, length: int, max_length: int) -> float:
        """Return the best score that a hypothesis can still reach: tokens only lower log P."""
        return max(self.normalized(total, n) for n in (length + 1, max_length))

    def coverage(self, received: Float[Tensor, " source"]) -> float:
        """Return beta * sum over the source of log(min(attention, 1)) (eq. 15)."""
        # Windowed attention is exactly 0 outside the window.
        least = finfo(received.dtype).tiny
        return self.coverage_penalty * float(received.clamp(least, 1).log().sum())

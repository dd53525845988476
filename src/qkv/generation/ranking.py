"""What beam search ranks answers by, and when it ends (Wu et al. 2016, section 7, "GNMT")."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, finfo

from qkv.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Beam:
    """How wide beam search is, what it ranks answers by, and when it ends.

    A source's search ends when nothing that still goes on can become one of the `n_best`, or, with
    `early_stopping`, as soon as `size` answers have ended: sooner, and perhaps with worse ones.

    Raises:
        ConfigError: on values that contradict each other.
    """

    size: int = 4
    n_best: int = 1
    length_penalty: float = 0.0  # alpha of eq. 14; above 0 it favours longer answers
    # gnmt: lp = ((5 + |Y|) / 6)^alpha; power: lp = |Y|^alpha, as Marian and transformers have it.
    length_rule: Literal["gnmt", "power"] = "gnmt"
    coverage_penalty: float = 0.0  # beta of eq. 15; above 0 it punishes what was not looked at
    # The attention that eq. 15 counts, by its name in `record_attention`, its heads averaged.
    coverage_layer: str | None = None
    early_stopping: bool = False

    def __post_init__(self) -> None:
        """Check the values and what excludes what."""
        if self.size < 1:
            raise ConfigError(f"a beam of size {self.size}, expected at least 1 (1 is greedy)")
        if not 1 <= self.n_best <= self.size:
            raise ConfigError(
                f"n_best is {self.n_best}, expected 1 to the beam's size {self.size}: no more "
                "answers are kept"
            )
        if self.length_rule not in ("gnmt", "power"):
            raise ConfigError(f"length_rule is {self.length_rule!r}, expected 'gnmt' or 'power'")
        if self.coverage_penalty < 0:
            raise ConfigError(f"coverage_penalty is {self.coverage_penalty}, expected at least 0")
        if (self.coverage_penalty > 0) != (self.coverage_layer is not None):
            raise ConfigError(
                f"coverage_penalty is {self.coverage_penalty} and coverage_layer "
                f"{self.coverage_layer!r}: a penalty above 0 needs the name of the attention that "
                "looks at the source, such as 'decoder.blocks.5.cross_attention', and 0 none"
            )

    def normalized(self, total: float, length: int) -> float:
        """Divide a log-probability by lp (eq. 14)."""
        base = (5 + length) / 6 if self.length_rule == "gnmt" else length
        return total / base**self.length_penalty

    def attainable(self, total: float, length: int, max_length: int) -> float:
        """The best score that may become of a beginning: no token adds to its log-probability."""
        return max(self.normalized(total, n) for n in (length + 1, max_length))

    def coverage(self, received: Float[Tensor, " source"]) -> float:
        """The coverage penalty: beta * sum over the source of log(min(attention, 1)) (eq. 15)."""
        # Attention within a window gives the rest exactly 0.
        least = finfo(received.dtype).tiny
        return self.coverage_penalty * float(received.clamp(least, 1).log().sum())

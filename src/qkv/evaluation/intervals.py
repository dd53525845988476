"""How far a measured mean can be trusted."""

from collections.abc import Sequence

import numpy as np

from qkv.errors import ConfigError, DataError

# Scores that are drawn at once: some 30 MB, however many there are.
CHUNK = 1_000_000


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of a mean, from means of the same scores drawn again with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; the percentile interval.

    Args:
        scores: one a unit, such as a text; what belongs together is one unit.
        weights: of the units in the mean, such as their tokens; by default all alike.
        level: how often such an interval holds the mean of all units that there could be.
        samples: how often the scores are drawn; the time is that of drawing samples x scores.
        seed: of the draws.

    Raises:
        DataError: there are no scores, or not as many weights, or one that is not above 0.
        ConfigError: a level that is not between 0 and 1, or no samples.
    """
    if not len(scores):
        raise DataError("no scores, no interval: expected at least one (was everything left out?)")
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}; expected a share between 0 and 1, such as 0.95")
    if samples < 1:
        raise ConfigError(f"samples = {samples}; expected at least 1")
    if weights is not None and (len(weights) != len(scores) or min(weights) <= 0):
        raise DataError(
            f"{len(weights)} weights from {min(weights, default=0)} for {len(scores)} scores; "
            "expected one a score, above 0"
        )
    values, rng = np.asarray(scores, dtype=float), np.random.default_rng(seed)
    parts = None if weights is None else np.asarray(weights, dtype=float)
    means, at_once = np.empty(samples), max(1, CHUNK // len(values))
    for first in range(0, samples, at_once):
        chunk = means[first : first + at_once]
        drawn = rng.integers(len(values), size=(len(chunk), len(values)))
        chunk[:] = _means(values, parts, drawn)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _means(values: np.ndarray, weights: np.ndarray | None, drawn: np.ndarray) -> np.ndarray:
    if weights is None:
        return values[drawn].mean(1)
    return (values * weights)[drawn].sum(1) / weights[drawn].sum(1)

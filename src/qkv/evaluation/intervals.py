"""How far a measured mean can be trusted."""

from collections.abc import Sequence

import numpy as np

from qkv.errors import ConfigError, DataError


def bootstrap_interval(
    scores: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The interval of a mean, from means of the same scores drawn again with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; the percentile interval.

    Args:
        scores: one a unit, such as a text; what belongs together is one unit.
        level: how often such an interval holds the mean of all units that there could be.
        samples: how often the scores are drawn.
        seed: of the draws.

    Raises:
        DataError: there are no scores.
        ConfigError: a level that is not between 0 and 1.
    """
    if not len(scores):
        raise DataError("no scores, no interval: expected at least one (was everything left out?)")
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}; expected a share between 0 and 1, such as 0.95")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(scores, dtype=float), size=(samples, len(scores)))
    low, high = np.quantile(drawn.mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""How far a measured share or mean can be trusted: 95 % intervals, by SciPy."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from qkv.errors import ConfigError, DataError, MissingDependencyError

# Scores that are drawn at once: some 30 MB, however many there are.
CHUNK = 1_000_000


def proportion_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the interval of a share, such as an accuracy.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": unlike the
    bootstrap, 20 of 20 leave a doubt.

    Args:
        successes: how many of the items have what is counted.
        count: how many items there are.

    Raises:
        DataError: if there are no items, or the successes are not 0 to `count`.
        MissingDependencyError: if SciPy is not installed.
    """
    if count < 1 or not 0 <= successes <= count:
        raise DataError(
            f"{successes} of {count} items; expected at least one item, and 0 to all of them "
            "(was everything left out?)"
        )
    interval = _stats().binomtest(successes, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of a mean, from means of the same scores drawn again with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; the percentile interval. For
    scores of 0 and 1 use `proportion_interval`.

    Args:
        scores: one a unit, such as a text; what belongs together is one unit.
        weights: of the units in the mean, such as their tokens; by default all alike.
        samples: how often the scores are drawn; the time is that of drawing samples x scores.
        seed: of the draws.

    Raises:
        DataError: if there are no scores, or not as many weights, or one that is not above 0.
        ConfigError: if there are no samples.
        MissingDependencyError: if SciPy is not installed.
    """
    if not len(scores):
        raise DataError("no scores, no interval: expected at least one (was everything left out?)")
    if samples < 1:
        raise ConfigError(f"samples = {samples}; expected at least 1")
    if weights is not None and (len(weights) != len(scores) or min(weights) <= 0):
        raise DataError(
            f"{len(weights)} weights from {min(weights, default=0)} for {len(scores)} scores; "
            "expected one a score, above 0"
        )
    values = np.asarray(scores, dtype=float)
    if len(values) == 1:
        return float(values[0]), float(values[0])
    shares = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    interval = (
        _stats()
        .bootstrap(
            (values * shares, shares),
            lambda total, share, axis: total.sum(axis) / share.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=samples,
            batch=max(1, CHUNK // len(values)),
            method="percentile",
            rng=seed,
        )
        .confidence_interval
    )
    return float(interval.low), float(interval.high)


def _stats() -> ModuleType:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError(
            'intervals are computed by SciPy: pip install "qkv[train]"'
        ) from error
    return stats

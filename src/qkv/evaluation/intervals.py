"""95 % confidence intervals of proportions and means, by SciPy."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from qkv.errors import ConfigError, DataError, MissingDependencyError

# Number of scores drawn at once, which bounds memory to about 30 MB.
CHUNK = 1_000_000


def proportion_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the interval of a proportion, such as an accuracy.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": unlike the
    bootstrap, its interval for 20 of 20 has a width above 0.

    Args:
        successes: number of successes.
        count: number of items.

    Raises:
        DataError: if there are no items, or the successes are not 0 to `count`.
        MissingDependencyError: if SciPy is not installed.
    """
    if count < 1 or not 0 <= successes <= count:
        raise DataError(
            f"{successes} successes of {count} items; expected at least one item "
            "and 0 to all of them (was everything left out?)"
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
    """Return the bootstrap interval of a mean.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; the percentile interval. For
    scores of 0 and 1 use `proportion_interval`.

    Args:
        scores: one score per independent unit, such as a text.
        weights: weights of the units, such as their numbers of tokens; None means equal weights.
        samples: number of bootstrap samples; the time is proportional to samples x scores.
        seed: seed of the random samples.

    Raises:
        DataError: if there are no scores, or not as many weights, or a weight is not above 0.
        ConfigError: if there are no samples.
        MissingDependencyError: if SciPy is not installed.
    """
    if not len(scores):
        raise DataError("there are no scores; expected at least one (was everything left out?)")
    if samples < 1:
        raise ConfigError(f"samples = {samples}; expected at least 1")
    if weights is not None and (len(weights) != len(scores) or min(weights) <= 0):
        raise DataError(
            f"{len(weights)} weights >= {min(weights, default=0)} for {len(scores)} scores; "
            "expected one per score, above 0"
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
            'confidence intervals need SciPy: pip install "qkv[train]"'
        ) from error
    return stats

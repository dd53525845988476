"""The interval of a share, and of a mean by drawing its scores again."""

import sys
import tracemalloc

import numpy as np
import pytest

from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.evaluation import intervals
from qkv.evaluation.intervals import bootstrap_interval, proportion_interval


@pytest.mark.parametrize("n", [1, 20, 997])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_has_the_interval_of_wilson(n, share):
    k, z = round(share * n), 1.959963984540054
    p = k / n
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = (center - half, center + half)
    assert proportion_interval(k, n) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_all_of_a_few_are_not_all_of_all():
    assert proportion_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert proportion_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(counts):
    k, n = counts
    with pytest.raises(DataError, match=f"{k} successes of {n} items; expected at least one"):
        proportion_interval(k, n)


def test_a_single_score_has_no_spread():
    assert bootstrap_interval([0.3]) == (0.3, 0.3)


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingDependencyError, match=r'need SciPy: pip install "qkv\[train\]"'):
        proportion_interval(1, 2)


def test_scores_that_are_all_equal_leave_no_doubt():
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_many_scores_give_the_interval_of_the_normal_distribution():
    scores = np.random.default_rng(1).exponential(3.0, size=1_000)
    error = scores.std() / np.sqrt(len(scores))
    expected = scores.mean() - 1.96 * error, scores.mean() + 1.96 * error
    assert bootstrap_interval(scores.tolist()) == pytest.approx(expected, abs=0.1 * error)


def test_it_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(5.0, 2.0, size=40).tolist(), samples=400)
        held += low < 5.0 < high
    assert 0.9 < held / 300 < 0.98


def test_the_draws_depend_on_the_seed_alone():
    scores = [0.0, 1.0, 0.5, 0.3, 0.9]
    assert bootstrap_interval(scores, samples=50) == bootstrap_interval(scores, samples=50)
    assert bootstrap_interval(scores, samples=50) != bootstrap_interval(scores, samples=50, seed=1)


@pytest.mark.parametrize("weights", [None, [2.0, 3.0, 5.0, 7.0, 11.0]])
def test_drawing_by_parts_draws_the_same(monkeypatch, weights):
    scores = [0.0, 1.0, 0.5, 0.3, 0.9]
    at_once = bootstrap_interval(scores, weights, samples=1_009)
    for chunk in (1, 5, 36, 5_000):
        monkeypatch.setattr(intervals, "CHUNK", chunk)
        assert bootstrap_interval(scores, weights, samples=1_009) == at_once


def test_half_a_million_scores_take_little_memory():
    scores = np.random.default_rng(3).uniform(size=500_009)
    tracemalloc.start()
    low, high = bootstrap_interval(scores, samples=23)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert low < scores.mean() < high
    assert peak < 50e6


def test_equal_weights_change_nothing_and_others_give_the_weighted_mean():
    scores = np.random.default_rng(4).exponential(3.0, size=97)
    plain = bootstrap_interval(scores, samples=500)
    assert bootstrap_interval(scores, [7.0] * 97, samples=500) == pytest.approx(plain, rel=1e-12)
    # A weight that outdoes all others leaves its score alone, in the draws that have it (63 %).
    low, high = bootstrap_interval([1.0] * 40 + [5.0], [1e-9] * 40 + [1e9])
    assert (low, high) == pytest.approx((1.0, 5.0))
    counts = np.random.default_rng(5).integers(1, 50, size=997)
    values = np.random.default_rng(6).normal(2.0, 1.0, size=997)
    low, high = bootstrap_interval(values, counts)
    mean = np.average(values, weights=counts)
    # Of a ratio of sums, by its linearization.
    error = np.sqrt(np.sum((counts * (values - mean)) ** 2)) / counts.sum()
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)


def test_nothing_to_average_and_no_samples_are_refused():
    with pytest.raises(DataError, match="there are no scores; expected at least one"):
        bootstrap_interval([])
    with pytest.raises(ConfigError, match=r"samples = 0; expected at least 1"):
        bootstrap_interval([1.0], samples=0)


@pytest.mark.parametrize("weights", [[1.0], [], [1.0, 0.0], [1.0, -1.0, 2.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(DataError, match=rf"{len(weights)} weights >= .* for 2 scores; expected"):
        bootstrap_interval([0.5, 0.7], weights)

"""The interval of a mean, by drawing its scores again."""

import numpy as np
import pytest

from qkv.errors import ConfigError, DataError
from qkv.evaluation.intervals import bootstrap_interval


def test_scores_that_are_all_equal_leave_no_doubt():
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_many_scores_give_the_interval_of_the_normal_distribution():
    scores = np.random.default_rng(1).exponential(3.0, size=1_000)
    error = scores.std() / np.sqrt(len(scores))
    expected = scores.mean() - 1.96 * error, scores.mean() + 1.96 * error
    assert bootstrap_interval(scores.tolist()) == pytest.approx(expected, abs=0.1 * error)
    low, high = bootstrap_interval(scores.tolist(), level=0.5)
    assert high - low == pytest.approx(2 * 0.6745 * error, rel=0.05)


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


def test_nothing_to_average_and_an_impossible_level_are_refused():
    with pytest.raises(DataError, match="no scores, no interval: expected at least one"):
        bootstrap_interval([])
    with pytest.raises(ConfigError, match=r"level = 1.5; expected a share between 0 and 1"):
        bootstrap_interval([1.0], level=1.5)

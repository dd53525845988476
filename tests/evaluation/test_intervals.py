"""The interval of a share: its ends are where the measured share is z standard errors away."""

import math

import pytest

from qkv.errors import DataError
from qkv.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(("hits", "trials", "z"), [(27, 36, 1.96), (3, 7, 1.0), (1, 500, 2.58)])
def test_both_ends_solve_the_equation_that_defines_them(hits, trials, z):
    share = hits / trials
    low, high = wilson_interval(hits, trials, z=z)
    assert 0 < low < share < high < 1
    for end in (low, high):
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials))


def test_no_hit_and_no_miss_mirror_each_other():
    low, high = wilson_interval(0, 10)
    assert (low, high) == (0.0, pytest.approx(1.96**2 / (10 + 1.96**2)))
    assert wilson_interval(10, 10) == (pytest.approx(1 - high), 1.0)


def test_it_holds_the_true_share_about_as_often_as_it_says():
    trials, truth = 36, 0.5
    chances = [math.comb(trials, k) * truth**trials for k in range(trials + 1)]
    within = [low <= truth <= high for low, high in (wilson_interval(k, trials) for k in range(37))]
    assert 0.93 < sum(c for c, inside in zip(chances, within, strict=True) if inside) < 0.98


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_count_is_refused(hits, trials):
    with pytest.raises(DataError, match=f"{hits} hits in {trials} trials; expected"):
        wilson_interval(hits, trials)

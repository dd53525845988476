"""Exact match: shares by hand, and what cannot be compared."""

import pytest

from qkv.errors import DataError
from qkv.evaluation.exact_match import exact_match, exact_match_by_length


def test_the_share_by_hand():
    assert exact_match(["a", "b", "c", "d"], ["a", "x", "c", "d "]) == 0.5


@pytest.mark.parametrize(
    ("predictions", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])]
)
def test_what_cannot_be_compared_raises(predictions, references):
    message = f"{len(predictions)} predictions and {len(references)} references: expected the same"
    with pytest.raises(DataError, match=message):
        exact_match(predictions, references)


def test_by_length_the_lower_edge_belongs_to_the_range():
    shares = exact_match_by_length(
        [1, 4, 5, 9, 5], [True, False, True, True, False], [0, 5, 7, 9, 20]
    )
    assert shares == {(0, 5): 1 / 2, (5, 7): 1 / 2, (9, 20): 1.0}


@pytest.mark.parametrize("length", [1, 9])
def test_a_length_outside_the_edges_is_not_lost_in_silence(length):
    with pytest.raises(
        DataError, match=rf"1 lengths, such as {length}, .* expected 2 <= length < 9"
    ):
        exact_match_by_length([length, 5], [True, True], [2, 9])


def test_by_length_needs_one_verdict_a_length():
    with pytest.raises(DataError, match="2 lengths and 1 outputs"):
        exact_match_by_length([3, 5], [True], [2, 9])

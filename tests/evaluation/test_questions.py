"""Scores of answers: SQuAD's rules by hand, laws, thresholds against trying them all."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import DataError
from qkv.evaluation.questions import (
    always_answered,
    answer_f1,
    answer_scores,
    best_threshold,
    normalize_answer,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("U.S. troops", "us troops"),
        ("an apple, a pear and the plum", "apple pear and plum"),
        ("A.", ""),
        ("theatre Atheist another", "theatre atheist another"),
        ("the-cat", "thecat"),
        ("a\u00a0b", "b"),
        ("“Straße”", "“straße”"),
        ("$1,000.50", "100050"),
        ("", ""),
    ],
)
def test_what_makes_no_difference(text, normalized):
    assert normalize_answer(text) == normalized


def test_f1_by_hand():
    # Of "big red dog" and "the red dog house" two words are in both.
    assert answer_f1("big red dog", "the red dog house") == pytest.approx(2 * 2 / (3 + 3))
    # A word counts as often as it stands in both.
    assert answer_f1("no no no", "no no yes") == pytest.approx(2 * 2 / 6)
    assert answer_f1("red dog", "dog red") == 1.0
    assert answer_f1("cat", "dog") == 0.0
    assert answer_f1("the", "a") == 1.0
    assert answer_f1("the", "dog") == 0.0


words = st.lists(st.sampled_from("red dog house the a big , .".split()), max_size=6).map(" ".join)  # noqa: SIM905


@given(words, words)
def test_f1_takes_no_sides_and_is_highest_for_a_match(one, other):
    assert answer_f1(one, other) == answer_f1(other, one)
    assert 0 <= answer_f1(one, other) <= 1
    assert answer_f1(one, one) == 1
    if normalize_answer(one) == normalize_answer(other):
        assert answer_f1(one, other) == 1


def test_scores_by_hand():
    answers = ["the red dog", "a cat", "Paris", "", "", "no"]
    references = [["red dog"], ["cat house", "dog"], ["London", "in Paris", "paris"], [], ["x"], []]
    scores = answer_scores(answers, references)
    # Right are the first, the third and the fourth; the second has one of two words and one extra.
    assert scores.count == 6
    assert scores.exact_match == pytest.approx(100 * 3 / 6)
    assert scores.f1 == pytest.approx(100 * (1 + 2 / 3 + 1 + 1 + 0 + 0) / 6)
    assert scores.n_answerable == 4
    assert scores.answerable_exact_match == pytest.approx(100 * 2 / 4)
    assert scores.answerable_f1 == pytest.approx(100 * (1 + 2 / 3 + 1 + 0) / 4)
    assert scores.unanswerable_accuracy == pytest.approx(50)
    for mean, (low, high) in {
        scores.f1: scores.f1_interval,
        scores.exact_match: scores.exact_match_interval,
    }.items():
        assert low < mean < high


def test_where_all_have_answers_nothing_is_said_of_the_rest():
    scores = answer_scores(["a b", "c"], [["b"], ["d"]])
    assert scores.unanswerable_accuracy is None
    assert scores.answerable_f1 == scores.f1 == 50
    silent = answer_scores(["", "c"], [[], []])
    assert (silent.answerable_f1, silent.answerable_exact_match) == (None, None)
    assert silent.unanswerable_accuracy == silent.exact_match == 50
    back = json.loads(json.dumps(dataclasses.asdict(silent), allow_nan=False))
    assert back["answerable_f1"] is None


@pytest.mark.parametrize("seed", range(3))
def test_no_answer_is_a_class_as_scikit_learn_scores_one(seed):
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(seed)
    answers = rng.choice(["", "dog", "the"], size=41).tolist()  # "the" is nothing either
    references = [[["dog"], []][k] for k in rng.integers(2, size=41)]
    scores = answer_scores(answers, references)
    expected = precision_recall_fscore_support(
        [not right for right in references], [one != "dog" for one in answers], average="binary"
    )
    found = (scores.no_answer_precision, scores.unanswerable_accuracy, scores.no_answer_f1)
    assert found == pytest.approx([100 * one for one in expected[:3]])
    low, high = scores.no_answer_f1_interval
    assert low < scores.no_answer_f1 < high


def test_who_never_abstains_has_no_precision():
    scores = answer_scores(["x", "y"], [["x"], []])
    assert (scores.no_answer_precision, scores.no_answer_f1) == (None, 0)
    all_known = answer_scores(["x", ""], [["x"], ["y"]])
    assert (all_known.no_answer_f1, all_known.no_answer_f1_interval) == (None, None)


def test_the_answers_that_were_kept_back_are_scored():
    references = [["red dog"], ["x"], []]
    scores = always_answered(
        answer_scores(["", "x", ""], references), ["dog", "x", "y"], references
    )
    assert scores.always_f1 == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert (scores.always_exact_match, scores.f1) == (50, pytest.approx(200 / 3))


def test_a_reference_of_articles_alone_is_none():
    assert answer_scores([""], [["the", "."]]).exact_match == 100
    assert answer_scores(["", "dog"], [["the", "dog"], ["the", "dog"]]).exact_match == 50


@given(st.lists(words, min_size=1, max_size=5), st.lists(words, min_size=1, max_size=3))
def test_one_more_reference_never_hurts(answers, more):
    one = answer_scores(answers, [["red dog"]] * len(answers))
    many = answer_scores(answers, [["red dog", *more]] * len(answers))
    assert many.f1 >= one.f1
    assert many.exact_match >= one.exact_match


def test_the_threshold_by_hand():
    answers, references = ["yes", "no", "red", "blue"], [["yes"], [], ["red"], []]
    scores = [-3.0, 2.0, 0.5, 0.7]
    found = best_threshold(answers, references, scores)
    assert (found.threshold, found.f1) == (0.5, 100.0)
    # The two that share a score are both answered or both not.
    assert best_threshold(answers, references, [-3.0, 2.0, 0.5, 0.5]).f1 == 75.0


@pytest.mark.parametrize("seed", range(7))
def test_no_other_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    answers = rng.choice(["red dog", "dog", "big", "house"], size=53).tolist()
    references = [[["dog"], ["red dog", "house"], []][k] for k in rng.integers(3, size=53)]
    scores = np.round(rng.normal(size=53), 1)  # so that many are equal

    def f1(threshold):
        kept = [a if s <= threshold else "" for a, s in zip(answers, scores, strict=True)]
        return answer_scores(kept, references).f1

    found = best_threshold(answers, references, scores)
    assert found.f1 == pytest.approx(f1(found.threshold))
    assert found.f1 == pytest.approx(max(f1(t) for t in [-99.0, *scores]))


def test_where_silence_is_best_nothing_is_answered():
    found = best_threshold(["x", "y"], [[], ["z"]], [0.3, 0.1])
    assert found.f1 == 50
    assert found.threshold < 0.1
    assert best_threshold(["x"], [["x"]], [5.0]).threshold == 5.0


@pytest.mark.parametrize(
    ("answers", "references", "message"),
    [
        ([], [], "0 answers and references for 0 questions: expected the same number"),
        (["a"], [["a"], ["b"]], r"1 answers and references for 2 .*was a question left out"),
        ("a", [["a"]], "got a single text; expected a list of answers"),
        (["a"], ["a"], "got a single text"),
    ],
)
def test_what_cannot_be_scored_is_refused(answers, references, message):
    with pytest.raises(DataError, match=message):
        answer_scores(answers, references)
    with pytest.raises(DataError, match=message):
        best_threshold(answers, references, [0.0])


@pytest.mark.parametrize("scores", [[0.0], [0.0, float("nan")], [[0.0, 1.0]]])
def test_scores_that_do_not_fit_are_refused(scores):
    with pytest.raises(DataError, match="scores for no answer and 2 answers; expected one finite"):
        best_threshold(["a", "b"], [["a"], []], np.array(scores))

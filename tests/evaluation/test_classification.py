"""Scores of classifiers: values by hand, what must not change them, and what is refused."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.evaluation.classification import (
    calibration_error,
    classification_report,
    multi_label_report,
    reliability,
)

LABELS = ("a", "b", "c")
# Truth by what was said, a column each: 3 classes, 11 texts, 7 right.
TRUTH = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
SAID = [0, 0, 0, 1, 2, 1, 1, 1, 0, 2, 0]


def sure(said, n_classes=3, probability=0.9):
    """Rows that give what is said this probability, and share the rest."""
    rest = (1 - probability) / (n_classes - 1)
    return np.where(np.eye(n_classes, dtype=bool)[list(said)], probability, rest)


def random_case(n=503, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.5] * n_classes, n)
    truth = [int(rng.choice(n_classes, p=0.7 * row + 0.3 / n_classes)) for row in probabilities]
    return truth, probabilities, [f"class {i}" for i in range(n_classes)]


def test_the_scores_by_hand():
    scores = classification_report(TRUTH, sure(SAID), LABELS)
    assert scores.count == 11
    assert scores.accuracy == pytest.approx(7 / 11)
    assert scores.confusion == ((3, 1, 1), (1, 3, 0), (1, 0, 1))
    a, b, c = scores.classes
    assert [one.label for one in scores.classes] == ["a", "b", "c"]
    assert (a.precision, a.recall, a.support) == pytest.approx((3 / 5, 3 / 5, 5))
    assert (b.precision, b.recall, b.support) == pytest.approx((3 / 4, 3 / 4, 4))
    assert (c.precision, c.recall, c.support) == pytest.approx((1 / 2, 1 / 2, 2))
    assert [one.f1 for one in scores.classes] == pytest.approx([3 / 5, 3 / 4, 1 / 2])
    assert scores.macro_f1 == pytest.approx((3 / 5 + 3 / 4 + 1 / 2) / 3)
    # Gorodkin 2004: (n c - sum p t) / sqrt((n^2 - sum p^2) (n^2 - sum t^2)); of n = 11 texts c = 7
    # are right, and 5, 4 and 2 are what each class has (t) and was given (p).
    assert scores.matthews == pytest.approx((11 * 7 - 45) / (121 - 45))


def test_the_loss_by_hand():
    probabilities = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]
    scores = classification_report([1, 2, 1], probabilities, LABELS)
    assert scores.loss == pytest.approx(-(np.log(0.25) + np.log(0.7) + np.log(1.0)) / 3)
    impossible = classification_report([0], [[0.0, 1.0, 0.0]], LABELS)
    assert impossible.loss == pytest.approx(708.4, abs=0.1)  # and not infinite, which JSON has not


def test_the_correlation_of_two_classes_by_hand():
    # 4 true positives, 3 true negatives, 2 false positives, 1 false negative.
    truth, said = [1] * 5 + [0] * 5, [1, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    scores = classification_report(truth, sure(said, 2), ("no", "yes"))
    assert scores.matthews == pytest.approx((4 * 3 - 2 * 1) / np.sqrt(6 * 5 * 5 * 4))


def test_what_says_always_the_same_has_no_correlation_with_anything():
    for truth in ([0, 1, 1, 1, 1], [1, 1, 1, 1, 1]):
        scores = classification_report(truth, sure([1] * 5), LABELS)
        assert scores.matthews == 0.0
        assert scores.accuracy == pytest.approx(np.mean(truth))


def test_a_score_of_nothing_by_nothing_is_none_and_counts_nowhere():
    scores = classification_report([0, 0, 1], sure([0, 0, 0]), LABELS)
    a, b, c = scores.classes
    assert (a.precision, a.recall, a.f1) == pytest.approx((2 / 3, 1, 4 / 5))
    # No text was given the second class; none has or was given the third.
    assert (b.precision, b.recall, b.f1, b.support) == (None, 0.0, 0.0, 1)
    assert (c.precision, c.recall, c.f1, c.support) == (None, None, None, 0)
    assert scores.macro_f1 == pytest.approx((4 / 5 + 0) / 2)


def test_scores_do_not_depend_on_the_order_of_texts_or_classes():
    truth, probabilities, labels = random_case()
    scores = classification_report(truth, probabilities, labels)
    rng = np.random.default_rng(1)
    texts, classes = rng.permutation(len(truth)), rng.permutation(len(labels))
    places = np.argsort(classes)  # where each class went
    turned = classification_report(
        [int(places[truth[i]]) for i in texts],
        probabilities[texts][:, classes],
        [labels[i] for i in classes],
    )
    for name in ("accuracy", "macro_f1", "matthews", "calibration_error"):
        assert getattr(turned, name) == pytest.approx(getattr(scores, name), rel=1e-12)
    assert {one.label: one for one in turned.classes} == {one.label: one for one in scores.classes}
    confusion = np.array(scores.confusion)
    assert np.array_equal(turned.confusion, confusion[np.ix_(classes, classes)])


def test_the_parts_of_a_report_agree():
    truth, probabilities, labels = random_case()
    scores = classification_report(truth, probabilities, labels)
    confusion = np.array(scores.confusion)
    assert confusion.sum() == scores.count == 503
    assert np.trace(confusion) / 503 == pytest.approx(scores.accuracy)
    assert confusion.sum(1).tolist() == [one.support for one in scores.classes]
    recalls = [one.recall * one.support for one in scores.classes]
    assert sum(recalls) / 503 == pytest.approx(scores.accuracy)
    assert sum(one.count for one in scores.reliability) == 503
    right = sum(one.count * one.accuracy for one in scores.reliability)
    assert right / 503 == pytest.approx(scores.accuracy)


def test_the_interval_holds_the_accuracy_and_narrows_with_the_texts():
    truth, probabilities, labels = random_case()
    low, high = classification_report(truth, probabilities, labels).accuracy_interval
    share = np.mean(probabilities.argmax(1) == truth)
    assert low < share < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 503), rel=0.1)
    four = classification_report(truth * 4, np.tile(probabilities, (4, 1)), labels)
    assert np.ptp(four.accuracy_interval) == pytest.approx((high - low) / 2, rel=0.1)


def test_bins_by_hand():
    confidence = [0.05, 0.25, 0.5, 0.5, 0.51, 0.75, 1.0]
    right = [False, True, True, False, True, True, True]
    bins = reliability(confidence, right, n_bins=4)
    # A bin holds its upper edge: 0.05 and 0.25; 0.5 twice; 0.51 and 0.75; 1.0.
    assert [(b.low, b.high, b.count) for b in bins] == [
        (0.0, 0.25, 2),
        (0.25, 0.5, 2),
        (0.5, 0.75, 2),
        (0.75, 1.0, 1),
    ]
    assert [b.confidence for b in bins] == pytest.approx([0.15, 0.5, 0.63, 1.0])
    assert [b.accuracy for b in bins] == [0.5, 0.5, 1.0, 1.0]
    expected = (2 * 0.35 + 2 * 0.0 + 2 * 0.37 + 1 * 0.0) / 7
    assert calibration_error(bins) == pytest.approx(expected)


def test_empty_bins_are_left_out_and_the_ends_are_not_lost():
    assert [b.count for b in reliability([0.0, 1.0, 1.0], [False, True, True], n_bins=13)] == [1, 2]
    bins = reliability([k / 10 for k in range(11)], [True] * 11, n_bins=10)
    assert [b.count for b in bins] == [2] + [1] * 9


def test_what_is_right_as_often_as_it_is_sure_is_calibrated():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.2, 1.0, 100_003)
    right = rng.uniform(size=100_003) < confidence
    assert calibration_error(reliability(confidence, right)) < 0.01
    # Sure of everything, it is off by what it gets wrong.
    always = reliability(np.ones(100_003), right)
    assert calibration_error(always) == pytest.approx(1 - right.mean())


def test_confidence_is_of_the_class_that_was_said():
    scores = classification_report(TRUTH, sure(SAID, probability=0.8), LABELS)
    (only,) = scores.reliability
    assert (only.count, only.confidence) == (11, pytest.approx(0.8))
    assert scores.calibration_error == pytest.approx(0.8 - 7 / 11)


def test_probabilities_may_be_rows_an_array_or_a_tensor():
    rows = sure(SAID)
    scores = classification_report(TRUTH, rows, LABELS)
    assert classification_report(TRUTH, rows.tolist(), LABELS) == scores
    assert classification_report(np.array(TRUTH), torch.tensor(rows), LABELS) == scores
    # In 16 bits rows do not quite sum to 1, and may say 1 and a little more.
    coarse = torch.tensor(rows).bfloat16().double()
    assert classification_report(TRUTH, coarse, LABELS).confusion == scores.confusion
    assert classification_report([0], [[1.001, 0.0, 0.0]], LABELS).accuracy == 1.0


def test_scores_become_json():
    scores = classification_report([0, 0, 1], sure([0, 0, 0]), LABELS)
    back = json.loads(json.dumps(dataclasses.asdict(scores), allow_nan=False))
    assert back["classes"][2]["f1"] is None
    assert back["confusion"] == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        ([], np.zeros((0, 3)), r"shape \(0, 3\) for 0 texts and 3 classes; .* at least one text"),
        ([0, 1], sure([0]), r"shape \(1, 3\) for 2 texts and 3 classes"),
        ([0], sure([0], 2), r"shape \(1, 2\) for 1 texts and 3 classes"),
        ([0, 1], [[0.5, 0.5, 0.0], [2.0, -1.0, 0.0]], r"row 2 .* sum 1; expected none below 0"),
        ([0], [[3.0, 1.0, 0.5]], r"row 1 .* the sum 4.5; .*\(logits without a softmax\?\)"),
        ([0], [[float("nan"), 1.0, 0.0]], r"row 1 of the probabilities is \[nan"),
        ([0, 3], sure([0, 1]), r"got classes from 0 to 3, but there are 3 labels"),
        ([-1, 2], sure([0, 1]), r"got classes from -1 to 2,"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, probabilities, message):
    with pytest.raises(DataError, match=message):
        classification_report(truth, probabilities, LABELS)


def test_what_cannot_be_binned_is_refused():
    with pytest.raises(ConfigError, match="n_bins = 0; expected at least 1"):
        reliability([0.5], [True], n_bins=0)
    with pytest.raises(DataError, match="2 confidences and 1 verdicts; expected the same number"):
        reliability([0.5, 0.5], [True])
    with pytest.raises(DataError, match="confidences from 0 to 1"):
        reliability([1.5], [True])
    with pytest.raises(DataError, match="there are no bins; expected"):
        calibration_error([])


def test_without_scikit_learn_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r'scikit-learn: pip install "qkv\[train\]"'):
        classification_report(TRUTH, sure(SAID), LABELS)


# Classes a, b, c of 4 texts: truth, and probabilities of which those from 0.5 on are predicted.
SEVERAL = [[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]]
CHANCES = [[0.9, 0.2, 0.5], [0.8, 0.4, 0.1], [0.3, 0.1, 0.7], [0.6, 0.2, 0.9]]


def test_the_scores_of_several_classes_by_hand():
    scores = multi_label_report(SEVERAL, CHANCES, LABELS)
    # Texts 1 and 4 are right in all classes; the most frequent combination is a and c, twice.
    assert (scores.count, scores.accuracy, scores.majority) == (4, 0.5, 0.5)
    assert scores.accuracy_interval == pytest.approx((0.15, 0.85), abs=0.01)
    a, b, c = scores.classes
    assert (a.precision, a.recall, a.f1, a.support) == (1.0, 1.0, 1.0, 3)
    assert (b.precision, b.recall, b.f1, b.support) == (None, 0.0, 0.0, 1)
    assert (c.precision, c.recall, c.support) == (pytest.approx(2 / 3), 1.0, 2)
    assert c.f1 == pytest.approx(4 / 5)
    # 6 labels, 6 predicted, 5 right.
    assert scores.micro_f1 == pytest.approx(2 * 5 / (6 + 6))
    assert scores.macro_f1 == pytest.approx((1 + 0 + 4 / 5) / 3)
    true = [0.9, 0.8, 0.5, 0.8, 0.4, 0.9, 0.7, 0.9, 0.3, 0.6, 0.8, 0.9]
    assert scores.loss == pytest.approx(-np.log(true).mean())
    chances = torch.tensor(CHANCES, dtype=torch.float64)
    assert multi_label_report(torch.tensor(SEVERAL), chances, LABELS) == scores


def test_a_class_that_no_text_has_or_was_given_counts_nowhere():
    scores = multi_label_report([[1, 0], [1, 0]], [[0.9, 0.1], [0.2, 0.1]], ("a", "b"))
    assert scores.classes[1] == dataclasses.replace(
        scores.classes[1], precision=None, recall=None, f1=None, support=0
    )
    assert scores.macro_f1 == scores.classes[0].f1 == pytest.approx(2 / 3)
    nothing = multi_label_report([[0, 0]], [[0.1, 0.1]], ("a", "b"))
    assert (nothing.micro_f1, nothing.macro_f1, nothing.accuracy) == (0.0, 0.0, 1.0)
    certain = multi_label_report([[1, 0]], [[0.0, 0.0]], ("a", "b"))
    assert certain.loss == pytest.approx(708.4 / 2, abs=0.1)  # and not infinite


@pytest.mark.parametrize(
    ("truth", "chances", "message"),
    [
        (
            [],
            np.zeros((0, 3)),
            r"shape \(0, 3\) for classes of shape \(0,\) and 3 labels",
        ),
        ([[1, 0]], [[0.5, 0.5, 0.5]], r"shape \(1, 3\) for classes of shape \(1, 2\) and 3 labels"),
        ([[1, 0]], [[0.5, 0.5]], r"shape \(1, 2\) for classes of shape \(1, 2\) and 3 labels"),
        ([[1, 0, 0]], [[2.5, -1.0, 0.5]], r"from -1 to 2\.5; expected 0 to 1 \(logits without a s"),
        ([[1, 0, 0]], [[float("nan"), 0.0, 0.5]], r"from nan to nan; expected 0 to 1"),
    ],
)
def test_several_classes_that_cannot_be_scored(truth, chances, message):
    with pytest.raises(DataError, match=message):
        multi_label_report(truth, chances, LABELS)

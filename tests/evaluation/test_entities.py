"""Entity F1: scores by hand, tags as a model may predict them, and what is refused."""

import dataclasses
import json

import pytest

from qkv.errors import DataError
from qkv.evaluation.entities import Span, entity_scores, spans


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-PER", [("PER", 0, 2)]),
        # An I- without its B-, as conlleval reads it: it begins an entity.
        ("O I-PER I-PER", [("PER", 1, 3)]),
        ("I-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("B-PER I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        ("B-A-B I-A-B I-A", [("A-B", 0, 2), ("A", 2, 3)]),
        # Tags without B- and I-, such as parts of speech: every word is an entity of its own.
        ("NN NN VB O", [("NN", 0, 1), ("NN", 1, 2), ("VB", 2, 3)]),
    ],
)
def test_the_entities_of_tags(tags, found):
    assert spans(tags.split()) == [Span(start, end, label) for label, start, end in found]


TRUTH = [
    "B-PER I-PER O B-LOC O",
    "O O B-ORG",
    "O B-PER O",
    "O O",
]
PREDICTED = [
    "B-PER I-PER O B-PER O",  # the person is right, the place is a person
    "O B-ORG I-ORG",  # other words: wrong
    "O I-PER O",  # right, although it does not begin with B-
    "B-LOC O",  # nothing is there
]


def rows(lines):
    return [line.split() for line in lines]


def test_the_scores_by_hand():
    scores = entity_scores(rows(TRUTH), rows(PREDICTED))
    # 4 entities, 5 predicted, 2 of them right.
    assert (scores.count, scores.entities) == (4, 4)
    assert scores.precision == pytest.approx(2 / 5)
    assert scores.recall == pytest.approx(2 / 4)
    assert scores.f1 == pytest.approx(2 * 2 / (4 + 5))
    # Of 13 words, 5 have the wrong tag: LOC, O, ORG, I-PER for B-PER, O. 8 are O.
    assert scores.token_accuracy == pytest.approx(8 / 13)
    assert scores.majority == pytest.approx(8 / 13)
    kinds = {one.label: (one.precision, one.recall, one.f1, one.support) for one in scores.labels}
    assert kinds == {
        "LOC": (0.0, 0.0, 0.0, 1),
        "ORG": (0.0, 0.0, 0.0, 1),
        "PER": (pytest.approx(2 / 3), 1.0, pytest.approx(4 / 5), 2),
    }


def test_the_words_and_the_kind_must_both_be_right():
    truth = rows(["B-PER I-PER O"])
    for wrong in ("B-PER O O", "B-PER I-PER I-PER", "B-LOC I-LOC O", "B-PER B-PER O"):
        assert entity_scores(truth, rows([wrong])).f1 == 0.0
    assert entity_scores(truth, truth).f1 == 1.0


def test_without_entities_the_scores_are_zero_and_those_of_no_kind_are_none():
    nothing = entity_scores(rows(["O O"]), rows(["O O"]))
    assert (nothing.f1, nothing.precision, nothing.recall) == (0.0, 0.0, 0.0)
    assert (nothing.f1_interval, nothing.labels) == ((0.0, 0.0), ())
    assert nothing.token_accuracy == nothing.majority == 1.0
    (kind,) = entity_scores(rows(["O B-PER"]), rows(["O O"])).labels
    assert (kind.precision, kind.recall, kind.f1, kind.support) == (None, 0.0, 0.0, 1)
    (kind,) = entity_scores(rows(["O O"]), rows(["O B-PER"])).labels
    assert (kind.precision, kind.recall, kind.f1, kind.support) == (0.0, None, 0.0, 0)


def test_the_interval_holds_the_score_and_narrows_with_the_sentences():
    truth, predicted = rows(TRUTH) * 50, rows(PREDICTED) * 50
    scores = entity_scores(truth, predicted)
    low, high = scores.f1_interval
    assert scores.f1 == pytest.approx(4 / 9)
    assert low < 4 / 9 < high
    narrow_low, narrow_high = entity_scores(truth * 4, predicted * 4).f1_interval
    assert narrow_high - narrow_low == pytest.approx((high - low) / 2, rel=0.1)


def test_the_order_of_sentences_does_not_matter_and_scores_become_json():
    scores = entity_scores(rows(TRUTH), rows(PREDICTED))
    turned = entity_scores(rows(TRUTH)[::-1], rows(PREDICTED)[::-1])
    names = ("precision", "recall", "f1", "token_accuracy", "majority", "labels")
    assert all(getattr(scores, name) == getattr(turned, name) for name in names)
    assert json.loads(json.dumps(dataclasses.asdict(scores)))["labels"][0]["label"] == "LOC"


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], r"0 sentences of 0 words and 0 predictions of 0 tags; expected at least one word"),
        ([[]], [[]], r"1 sentences of 0 words"),
        ([["O"]], [["O"], ["O"]], r"1 sentences of 1 words and 2 predictions of 2 tags"),
        ([["O"], ["O", "O"]], [["O", "O"], ["O"]], r"2 sentences of 3 words .* one tag per word"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        entity_scores(truth, predicted)

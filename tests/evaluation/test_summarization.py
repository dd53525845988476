"""ROUGE: values by hand, rouge-score's own, the best of several references, what is refused."""

import dataclasses
import json
import sys

import pytest
from rouge_score import rouge_scorer

from qkv.errors import DataError, MissingDependencyError
from qkv.evaluation.summarization import summary_scores

TEXTS = ["the cat sat on the mat", "prices rise again", "meeting moved to Friday!"]
REFERENCES = [
    ["the cat lay on the mat", "a cat is on a mat"],
    ["Prices are rising", "Inflation"],
    ["Friday's meeting", "Meeting on Friday", "schedule"],
]


def test_rouge_by_hand():
    scores = summary_scores(["the cat sat on the mat"], ["the cat lay on the soft mat"])
    # Six words and seven: "the" twice, "cat", "on", "mat" are in both.
    assert (scores.rouge1.precision, scores.rouge1.recall) == pytest.approx((500 / 6, 500 / 7))
    assert scores.rouge1.f1 == pytest.approx(100 * 2 * 5 / 13)
    # Five pairs and six: "the cat" and "on the".
    assert (scores.rouge2.precision, scores.rouge2.recall) == pytest.approx((200 / 5, 200 / 6))
    assert scores.rouge2.f1 == pytest.approx(100 * 2 * 2 / 11)
    # The longest subsequence is all five words in this order.
    assert scores.rouge_l.f1 == pytest.approx(100 * 2 * 5 / 13)
    # The other way round three stay in order, such as "the cat the".
    swapped = summary_scores(["mat the on sat cat the"], ["the cat lay on the soft mat"])
    assert swapped.rouge1.f1 == pytest.approx(100 * 2 * 5 / 13)
    assert swapped.rouge_l.f1 == pytest.approx(100 * 2 * 3 / 13)


def test_the_scores_are_the_means_of_rouge_score():
    scores = summary_scores(TEXTS, REFERENCES)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    of_each = [scorer.score_multi(refs, text) for text, refs in zip(TEXTS, REFERENCES, strict=True)]
    for ours, theirs in {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}.items():
        found = getattr(scores, ours)
        for field, name in {"precision": 0, "recall": 1, "f1": 2}.items():
            mean = sum(score[theirs][name] for score in of_each) / 3
            assert getattr(found, field) == pytest.approx(100 * mean)
        assert found.interval[0] <= found.f1 <= found.interval[1]
    assert scores.count == 3


def test_of_several_references_the_best_counts_for_each_kind():
    best = summary_scores(["a b c d"], [["a b x y", "d c b a"]])
    first, second = (summary_scores(["a b c d"], [text]) for text in ("a b x y", "d c b a"))
    assert best.rouge1.f1 == second.rouge1.f1 == pytest.approx(100)
    assert best.rouge2.f1 == first.rouge2.f1 > second.rouge2.f1
    assert best.rouge_l.f1 == first.rouge_l.f1 > second.rouge_l.f1
    # One reference as a text or as a list is the same, and repeating it changes nothing.
    again = summary_scores(["a b c d"], [["a b x y", "a b x y"]])
    assert (again.rouge1, again.rouge2, again.rouge_l) == (
        first.rouge1,
        first.rouge2,
        first.rouge_l,
    )


def test_stems_are_equal_unless_asked_otherwise():
    stemmed = summary_scores(["reports"], ["reported"])
    exact = summary_scores(["reports"], ["reported"], stemmer=False)
    assert (stemmed.rouge1.f1, exact.rouge1.f1) == (100, 0)
    assert "|stem:yes|" in stemmed.signature
    assert "|stem:no|" in exact.signature


def test_the_signature_says_how():
    assert summary_scores(TEXTS, REFERENCES).signature.startswith("nrefs:var|best:f1|stem:yes|")
    two = summary_scores(TEXTS, [of_text[:2] for of_text in REFERENCES])
    assert two.signature.startswith("nrefs:2|")
    assert two.signature.endswith("|rouge-score:0.1.2")


def test_references_without_words_are_counted():
    scores = summary_scores(["a", "b", ""], ["a", ["???", "日本"], "c"])
    assert scores.without_words == 1
    assert scores.rouge1.f1 == pytest.approx(100 / 3)
    with pytest.raises(DataError, match=r"no reference has a letter a-z or a digit.*script"):
        summary_scores(["日本"], ["日本"])


def test_scores_become_json():
    scores = summary_scores(TEXTS, REFERENCES)
    back = json.loads(json.dumps(dataclasses.asdict(scores), allow_nan=False))
    assert back["rouge_l"]["f1"] == scores.rouge_l.f1


@pytest.mark.parametrize(
    ("summaries", "references", "message"),
    [
        ([], [], "0 summaries and 0 references: expected the same number, at least one"),
        (["a"], [], r"1 summaries and 0 references: .*\(was a row left out\?\)"),
        (["a", "b"], ["a", []], "summary 2 has no reference"),
        ("a", ["a"], "got a single text; expected lists of summaries"),
        (["a"], "a", "got a single text"),
    ],
)
def test_what_cannot_be_scored_is_refused(summaries, references, message):
    with pytest.raises(DataError, match=message):
        summary_scores(summaries, references)


def test_without_rouge_score_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingDependencyError, match=r'rouge-score: pip install "qkv\[train\]"'):
        summary_scores(["a"], ["a"])


def test_beside_the_best_of_several_stand_the_scores_by_the_first():
    turned = [of_text[::-1] for of_text in REFERENCES]
    both = summary_scores(TEXTS, turned)
    alone = summary_scores(TEXTS, [of_text[0] for of_text in turned])
    assert both.by_first == alone
    assert alone.by_first is None
    assert both.rouge1.f1 > alone.rouge1.f1
    assert dataclasses.asdict(both)["by_first"]["signature"].startswith("nrefs:1|")

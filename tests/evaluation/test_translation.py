"""Scores of translations: sacreBLEU's own numbers, its signatures, and laws that must hold."""

import dataclasses
import json
import random
import sys

import pytest
import sacrebleu

from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.evaluation.translation import translation_scores

REFERENCES = [
    "Ein Mann fährt auf einem roten Fahrrad, schnell.",
    "Zwei Hunde spielen im tiefen Schnee vor dem Haus.",
    "Die Frau's Hut (blau) fliegt davon!",
    "Kinder essen Eis am Strand in der Sonne.",
    "Der alte Zug hält am leeren Bahnhof von Ulm.",
]
TRANSLATIONS = [
    "Ein Mann fährt auf einem Fahrrad, schnell.",
    "zwei Hunde spielen im Schnee vor einem Haus.",
    "Der Hut (blau) der Frau fliegt davon!",
    "Kinder essen Eis am Strand in der Sonne.",
    "Der Zug hält am alten Bahnhof.",
]


def test_the_scores_are_those_of_sacrebleu():
    scores = translation_scores(TRANSLATIONS, REFERENCES)
    bleu = sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES])
    lower = sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES], lowercase=True)
    chrf = sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES])
    assert scores.count == 5
    assert (scores.bleu.score, scores.chrf.score) == (bleu.score, chrf.score)
    assert scores.bleu_lowercase.score == lower.score > bleu.score
    for score in (scores.bleu, scores.chrf, scores.bleu_lowercase):
        low, high = score.interval
        assert 0 <= low < score.score < high <= 110


def test_bleu_by_hand():
    # 4 of 5 words match, 3 of 4 pairs, 2 of 3 and 1 of 2; the lengths are equal.
    (score,) = {translation_scores(["a b c d x"], ["a b c d e"]).bleu.score}
    assert score == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
    # Half as long as the reference: exp(1 - 10/5).
    short = translation_scores(["a b c d e"], ["a b c d e f g h i j"]).bleu.score
    assert short == pytest.approx(100 * 2.718281828459045**-1)


def test_the_signatures_say_how():
    scores = translation_scores(TRANSLATIONS, REFERENCES, samples=97)
    version, drawn = sacrebleu.__version__, "bs:97|seed:12345"
    assert scores.bleu.signature == (
        f"nrefs:1|{drawn}|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    )
    assert scores.bleu_lowercase.signature == (
        f"nrefs:1|{drawn}|case:lc|eff:no|tok:13a|smooth:exp|version:{version}"
    )
    # beta = 2 and no words are chrF2, which is what sacreBLEU's signature leaves unsaid.
    assert scores.chrf.signature == (
        f"nrefs:1|{drawn}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    )
    assert sacrebleu.corpus_chrf(["a"], [["a"]]).beta == 2
    assert "|tok:char|" in translation_scores(["天"], ["天"], tokenizer="char").bleu.signature


def test_the_multi30k_convention_lower_cases_both_sides_and_splits_the_signs():
    scores = translation_scores(
        ["EIN MANN, FÄHRT (SCHNELL) HEIM."], ["ein mann, Fährt (schnell) heim."]
    )
    assert scores.bleu_lowercase.score == pytest.approx(100)
    assert scores.bleu.score < 100
    by_hand = sacrebleu.corpus_bleu(
        ["ein mann , fährt ( schnell ) heim ."],
        [["ein mann , fährt ( schnell ) nach heim ."]],
        tokenize="none",
        force=True,
    )
    tokenized = translation_scores(
        ["Ein Mann, fährt (schnell) heim."], ["ein mann, fährt (schnell) NACH heim."]
    )
    assert tokenized.bleu_lowercase.score == pytest.approx(by_hand.score)


def test_several_references_help_and_their_number_may_differ():
    one = translation_scores(TRANSLATIONS, REFERENCES)
    more = [[text] for text in REFERENCES]
    more[0] = [more[0][0], TRANSLATIONS[0]]
    many = translation_scores(TRANSLATIONS, more)
    assert many.bleu.score > one.bleu.score
    assert many.chrf.score > one.chrf.score
    assert many.bleu.signature.startswith("nrefs:var|")
    again = [[text, other] for text, other in zip(REFERENCES, TRANSLATIONS, strict=True)]
    perfect = translation_scores(TRANSLATIONS, again)
    assert perfect.bleu.score == pytest.approx(100)
    assert perfect.bleu.signature.startswith("nrefs:2|")
    as_lists = translation_scores(TRANSLATIONS, [[text] for text in REFERENCES])
    assert as_lists == one


def test_the_interval_narrows_with_the_texts_and_holds_the_score():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(50)]
    references = [" ".join(rng.choices(words, k=11)) for _ in range(400)]
    spoiled = [
        " ".join(word if rng.random() < 0.8 else "x" for word in text.split())
        for text in references
    ]
    few = translation_scores(spoiled[:50], references[:50], samples=200).bleu
    many = translation_scores(spoiled, references, samples=200).bleu
    for score in (few, many):
        assert score.interval[0] < score.score < score.interval[1]
    width = [score.interval[1] - score.interval[0] for score in (few, many)]
    # Eight times the texts: about 2.8 times narrower.
    assert 1.8 < width[0] / width[1] < 4.5


def test_nothing_in_common_is_nothing():
    scores = translation_scores(["", "x"], ["Wort eins", "Bug"])
    assert (scores.bleu.score, scores.chrf.score) == (0, 0)
    assert scores.bleu.interval == (0, 0)


def test_scores_become_json():
    scores = translation_scores(TRANSLATIONS, REFERENCES)
    back = json.loads(json.dumps(dataclasses.asdict(scores), allow_nan=False))
    assert back["chrf"]["score"] == scores.chrf.score


@pytest.mark.parametrize(
    ("translations", "references", "message"),
    [
        ([], [], "0 translations and 0 references: expected the same number, at least one"),
        (["a"], ["a", "b"], r"1 translations and 2 references: .*\(was a line left out\?\)"),
        (["a", "b"], ["a", ""], "text 2 has 1 references, none or one of them empty"),
        (["a"], [["b", " "]], "text 1 has 2 references, none or one"),
        (["a"], [[]], "text 1 has 0 references"),
        ("a", ["a"], "got a single text; expected lists of translations"),
        (["a"], "a", "got a single text"),
    ],
)
def test_what_cannot_be_scored_is_refused(translations, references, message):
    with pytest.raises(DataError, match=message):
        translation_scores(translations, references)


@pytest.mark.parametrize("options", [{"tokenizer": "moses"}, {"samples": 1}])
def test_what_sacrebleu_has_not_is_refused(options):
    with pytest.raises(ConfigError, match="expected one of 13a, intl, zh, char, none, and two"):
        translation_scores(["a"], ["a"], **options)


def test_without_sacrebleu_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingDependencyError, match=r'sacreBLEU: pip install "qkv\[train\]"'):
        translation_scores(["a"], ["a"])


def test_samples_of_which_some_have_nothing_right():
    scores = translation_scores(["a b c d e", "q"], ["a b c d e", "f g h"], samples=50)
    low, high = scores.chrf.interval
    assert low < scores.chrf.score < high

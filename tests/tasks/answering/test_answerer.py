"""Answers as a library: laws of spans and windows, thresholds, and models of other kinds."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from tests.helpers import unchecked
from tests.tasks.small import write_base

from qkv.data.labels import Labels
from qkv.data.questions import Answer, Question
from qkv.data.span_search import best_spans
from qkv.data.windows import WindowConfig, make_windows
from qkv.errors import ConfigError, DataError, LengthError
from qkv.evaluation.questions import answer_scores
from qkv.models.heads import QuestionAnswering
from qkv.tasks.answering import Answerer
from qkv.tasks.classification import TextClassifier
from qkv.tasks.pipeline import OURS, with_parameters
from qkv.tasks.pretrained import save
from qkv.tasks.task import task_of

CONTEXT = "the film was not dull . a clever  plot and the superb books ! the meal was lovely"
CONTEXTS = [CONTEXT, "the book was fine", CONTEXT + " . " + CONTEXT]
QUESTIONS = ["was the film dull", "fine book", "the meal was"]
WINDOWS = WindowConfig(max_length=17, stride=5, max_answer=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    torch.manual_seed(1)
    answerer = Answerer.fresh(base, WINDOWS)
    with torch.no_grad():
        answerer.model.classifier.weight *= 40  # of opinions
    folder = tmp_path_factory.mktemp("made") / "model"
    save(answerer.loaded, folder)
    return folder


@pytest.fixture
def answerer(folder):
    one = Answerer.load(folder)
    one.model.double()
    return one


def test_what_was_saved_is_read_the_same_way(answerer):
    assert answerer.windows == WINDOWS
    assert isinstance(answerer.model, QuestionAnswering)


def test_best_spans_are_those_of_all_pairs():
    torch.manual_seed(0)
    logits = torch.randn(3, 11, 2, dtype=torch.float64)
    passage = torch.zeros(3, 11, dtype=torch.bool)
    for row, (first, last) in enumerate([(2, 9), (1, 2), (4, 11)]):
        passage[row, first:last] = True
    found = best_spans(logits, passage, max_answer=3, n=7)
    for row in range(3):
        pairs = {
            (i, j): float(logits[row, i, 0] + logits[row, j, 1])
            for i in range(11)
            for j in range(i, min(i + 3, 11))
            if passage[row, i] and passage[row, j]
        }
        best = sorted(pairs, key=lambda pair: -pairs[pair])[:7]
        scores, starts, ends = (column[row].tolist() for column in found[:3])
        real = [k for k, score in enumerate(scores) if score > -math.inf]
        assert [(starts[k], ends[k]) for k in real] == best
        assert [scores[k] for k in real] == pytest.approx([pairs[pair] for pair in best])
        total = math.log(sum(math.exp(score) for score in pairs.values()))
        assert float(found.log_total[row]) == pytest.approx(total)
        assert float(found.null_score[row]) == pytest.approx(float(logits[row, 0].sum()))


def test_another_token_may_stand_for_no_answer():
    logits, passage = torch.randn(3, 7, 2).double(), torch.ones(3, 7, dtype=torch.bool)
    first, last = (
        best_spans(logits, passage, null, max_answer=2, n=3)
        for null in (None, torch.tensor([6, 2, 5]))
    )
    torch.testing.assert_close(first.null_score, logits[:, 0].sum(1))
    torch.testing.assert_close(
        last.null_score, torch.stack([logits[i, j].sum() for i, j in enumerate((6, 2, 5))])
    )
    torch.testing.assert_close(first.scores, last.scores)


def test_answers_stand_where_they_say(answerer):
    for found in answerer(QUESTIONS, CONTEXTS):
        assert found.context[found.start : found.end] == found.answer == found.answer.strip() != ""
        assert len(found.answer.split()) <= 3
        for one in found.n_best:
            assert found.context[one.start : one.end] == one.answer
        order = [one.confidence for one in found.n_best]
        assert order == sorted(order, reverse=True)
        assert found.confidence == order[0]
        assert len({(one.start, one.end) for one in found.n_best}) == 3


def test_probabilities_of_all_spans_and_of_silence_sum_to_one(answerer):
    """In one window; in several the spans of an overlap are counted twice."""
    (found,) = replace(answerer, n_best=100).search(QUESTIONS[1:2], CONTEXTS[1:2])
    n = len(CONTEXTS[1].split())
    assert len(found.candidates) == n + (n - 1) + (n - 2)
    total = found.null_probability + sum(one.confidence for one in found.candidates)
    assert total == pytest.approx(1, abs=1e-12)


def test_one_question_equals_many_and_the_order_is_kept(answerer):
    many = answerer(QUESTIONS, CONTEXTS)
    for question, context, one in zip(QUESTIONS, CONTEXTS, many, strict=True):
        alone = answerer(question, context)
        assert (alone.question, alone.answer, alone.start) == (question, one.answer, one.start)
        assert alone.confidence == pytest.approx(one.confidence, rel=1e-10)
        assert alone.no_answer_score == pytest.approx(one.no_answer_score, rel=1e-10)
    assert answerer(QUESTIONS[:2], CONTEXT) == answerer(QUESTIONS[:2], [CONTEXT] * 2)
    assert answerer([], []) == []


def test_several_windows_say_what_the_best_of_them_says(answerer):
    """By hand: all spans of all windows, and the lowest score for silence."""
    question, context = QUESTIONS[0], CONTEXTS[2]
    windows = make_windows(answerer.tokenizer, [question], [context], max_length=17, stride=5)
    assert len(windows) > 3
    scores, silence = {}, []
    for window in windows:
        ids, segments = torch.tensor([window.ids]), torch.tensor([window.segments])
        with torch.no_grad():
            start, end = answerer.model(ids, segments=segments)[0].unbind(-1)
        silence.append(float(start[0] + end[0]))
        last = window.first + len(window.spans)
        for i in range(window.first, last):
            for k in range(i, min(i + 3, last)):
                at = window.characters(i, k)
                scores[at] = max(float(start[i] + end[k]), scores.get(at, -math.inf))
    best = max(scores, key=lambda at: scores[at])
    (found,) = answerer.search([question], [context])
    assert (found.candidates[0].start, found.candidates[0].end) == best
    assert found.no_answer_score == pytest.approx(min(silence) - scores[best], rel=1e-9)
    assert found.n_windows == len(windows)
    assert max(silence) - min(silence) > 1e-3


def test_sentences_compare_by_their_own_score_for_silence(answerer):
    """By hand: each sentence alone, and the one whose span is furthest above its silence."""
    sentences = ["The film was dull.", "The book was superb.", "A clever plot, the meal lovely."]
    windows = replace(WINDOWS, sentences=True, max_length=25)
    one = replace(answerer, windows=windows)
    (found,) = one.search(QUESTIONS[:1], [" ".join(sentences)])
    alone = [one.search(QUESTIONS[:1], [text])[0] for text in sentences]
    assert found.n_windows == 3
    lowest = min(alone, key=lambda it: it.no_answer_score)
    assert found.no_answer_score == pytest.approx(lowest.no_answer_score, rel=1e-9)
    assert found.candidates[0].answer == lowest.candidates[0].answer
    # Of three windows, each with its odds against silence.
    odds = sum(1 / it.null_probability - 1 for it in alone)
    assert found.null_probability == pytest.approx(1 / (1 + odds), rel=1e-9)


def test_results_are_json_values(answerer):
    content = asdict(answerer(QUESTIONS[0], CONTEXT))
    assert set(content["n_best"][0]) == {"answer", "start", "end", "confidence"}


def test_above_the_threshold_there_is_no_answer(answerer):
    always = answerer(QUESTIONS, CONTEXTS)
    scores = [one.no_answer_score for one in always]
    middle = sorted(scores)[1]
    some = replace(answerer, windows=replace(WINDOWS, threshold=middle))(QUESTIONS, CONTEXTS)
    for one, other, score in zip(always, some, scores, strict=True):
        if score <= middle:
            assert one == other
        else:
            assert (other.answer, other.start, other.end) == ("", None, None)
            assert other.n_best == one.n_best
            (found,) = answerer.search([other.question], [other.context])
            assert other.confidence == pytest.approx(found.null_probability)


def test_a_higher_threshold_takes_no_answer_back_and_an_infinite_one_none(answerer):
    """Its score is above ever fewer thresholds, so what is answered stays answered."""
    always = answerer(QUESTIONS, CONTEXTS)
    scores = sorted(one.no_answer_score for one in always)
    answered = set()
    for threshold in (-math.inf, scores[0] - 1, *scores, scores[-1] + 1):
        windows = replace(WINDOWS, threshold=threshold)
        found = replace(answerer, windows=windows)(QUESTIONS, CONTEXTS)
        now = {one.question for one in found if one.answer}
        assert answered <= now
        answered = now
    assert answered == {*QUESTIONS}
    assert replace(answerer, windows=replace(WINDOWS, threshold=math.inf))(QUESTIONS, CONTEXTS) == (
        always
    )


def test_a_threshold_that_is_given_comes_before_the_model_s(answerer):
    windows = replace(WINDOWS, threshold=-math.inf)
    loaded = with_parameters(
        answerer.loaded, **{"question-answering": vars(WINDOWS) | {"threshold": -1e9}}
    )
    assert [one.answer for one in Answerer.of(loaded)(QUESTIONS, CONTEXTS)] == [""] * 3
    known = Answerer.of(loaded, threshold=math.inf)(QUESTIONS, CONTEXTS)
    assert known == answerer(QUESTIONS, CONTEXTS)
    assert Answerer.of(answerer.loaded, threshold=-math.inf).windows == windows


def test_what_it_would_have_answered_is_scored_beside(answerer):
    asked = questions(answerer)
    silent = replace(answerer, windows=replace(WINDOWS, threshold=-math.inf)).evaluate(asked)
    assert (silent.f1, silent.always_f1, silent.always_exact_match) == (0, 100, 100)
    assert answerer.evaluate(asked).always_f1 is None


def questions(answerer, silent=()):
    """Whose answers are what the model says, but for those that have none."""
    said = answerer(QUESTIONS, CONTEXTS)
    return [
        Question(
            id=str(i),
            question=one.question,
            context=one.context,
            answers=() if i in silent else (Answer(one.answer, one.start),),
            source=str(i),
        )
        for i, one in enumerate(said)
    ]


def test_scores_are_those_of_squad(answerer):
    asked = questions(answerer, silent=[1])
    scores = answerer.evaluate(asked)
    expected = [[a.text for a in one.answers] for one in asked]
    assert scores == answer_scores([one.answer for one in answerer(QUESTIONS, CONTEXTS)], expected)
    assert (scores.count, scores.unanswerable_accuracy) == (3, 0)
    assert scores.exact_match == pytest.approx(200 / 3)


def test_the_threshold_is_chosen_where_some_have_no_answer(answerer, tmp_path):
    said = answerer(QUESTIONS, CONTEXTS)
    highest = max(range(3), key=lambda i: said[i].no_answer_score)
    asked = questions(answerer, silent=[highest])
    chosen = answerer.with_threshold(asked)
    assert chosen.evaluate(asked).f1 == 100
    assert answerer.with_threshold(questions(answerer)) is answerer
    save(chosen.loaded, tmp_path / "made")
    assert Answerer.load(tmp_path / "made").windows == chosen.windows != WINDOWS


def test_what_cannot_be_asked(answerer):
    with unchecked():
        for question, context, said in (
            ("", CONTEXT, "question 1 has no tokens"),
            ("the film", " ", "passage 1 has no tokens"),
        ):
            with pytest.raises(DataError, match=said):
                answerer(question, context)
        with pytest.raises(DataError, match="2 questions and 1 passages; expected one passage"):
            answerer(QUESTIONS[:2], [CONTEXT])
        with pytest.raises(LengthError, match="question 1 has 17 tokens"):
            answerer("the " * 17, CONTEXT)
        with pytest.raises(DataError, match="0 answers"):
            answerer.evaluate([])


def test_numbers_out_of_range(base, answerer):
    with pytest.raises(ConfigError, match="stride = 0; expected at least 1 token"):
        WindowConfig(stride=0)
    with pytest.raises(ConfigError, match=r"max_length = 42, but .* for 41 tokens"):
        Answerer.fresh(base, WindowConfig(max_length=42))
    with pytest.raises(ConfigError, match="n_best = 0; expected at least 1"):
        replace(answerer, n_best=0)


def test_a_base_that_was_trained_for_another_task_lends_no_task(base, tmp_path):
    classifier = TextClassifier.fresh(base, Labels(("bad", "good")), max_length=17)
    recorded = {"task": "classify", "columns": {"text": "review"}}
    save(with_parameters(classifier.loaded, **{OURS: recorded}), tmp_path / "classifier")
    save(Answerer.fresh(tmp_path / "classifier", WINDOWS).loaded, tmp_path / "made")
    assert task_of(tmp_path / "classifier") == "classify"
    assert task_of(tmp_path / "made") == "answer"
    assert Answerer.load(tmp_path / "made").windows == WINDOWS


def test_the_passage_may_be_a_keyword(answerer):
    found = answerer(QUESTIONS[0], CONTEXT)
    assert answerer(QUESTIONS[0], context=CONTEXT) == found
    assert answerer([QUESTIONS[0]], context=CONTEXT) == [found]


def test_models_of_other_kinds_are_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="is a Bert with a tokenizer; expected a model that was"):
        Answerer.load(base)
    with pytest.raises(ConfigError, match="of the family vit, which has no QuestionAnswering here"):
        Answerer.fresh(write_base(tmp_path / "vit", "vit", files={}))
    with pytest.raises(ConfigError, match="has no tokenizer"):
        Answerer.fresh(write_base(tmp_path / "bare", files={}), WINDOWS)


@pytest.mark.parametrize("model_type", ["distilbert", "roberta"])
def test_other_encoders_answer_too(tmp_path, model_type):
    base = write_base(tmp_path / "base", model_type)
    found = Answerer.fresh(base, WINDOWS)(QUESTIONS[0], CONTEXT)
    assert found.answer in CONTEXT


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"max_length": "x"}, "max_length = 'x'; expected a whole number of at least 1"),
        ({"stride": 0}, "stride = 0; expected a whole number of at least 1"),
        ({"threshold": []}, r"threshold = \[\]; expected a number or null"),
    ],
)
def test_how_passages_are_read_is_checked(answerer, said, message):
    config = {**answerer.loaded.config, "task_specific_params": {"question-answering": said}}
    message = f"task_specific_params.question-answering of config.json: {message}"
    with pytest.raises(ConfigError, match=message):
        Answerer.of(replace(answerer.loaded, config=config))

"""Scores of answers to questions, as SQuAD defines them: exact match and F1 over words."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkv.errors import DataError
from qkv.evaluation.intervals import bootstrap_interval, proportion_interval

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """Scores of some answers, 0 to 100; `dataclasses.asdict` makes JSON values of them.

    Args:
        count: how many questions.
        exact_match: share of the answers that equal a reference, once both are normalized.
        exact_match_interval: Wilson's, 95 %.
        f1: mean over the questions of the F1 of words, with the best reference.
        f1_interval: by the bootstrap, 95 %.
        n_answerable: how many questions have an answer.
        answerable_exact_match: of these alone; None where there are none.
        answerable_f1: of these alone.
        unanswerable_accuracy: share of the other questions that were left without an answer.
    """

    count: int
    exact_match: float
    exact_match_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]
    n_answerable: int
    answerable_exact_match: float | None
    answerable_f1: float | None
    unanswerable_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class NoAnswerThreshold:
    """Above which score for "no answer" none is given.

    Args:
        threshold: an answer is given where the score is at most this.
        f1: with it, 0 to 100.
    """

    threshold: float
    f1: float


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles "a", "an", "the", one space between words.

    In this order, which matters: "U.S." becomes "us" and "A." nothing.
    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, section 6.1.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def answer_f1(answer: str, reference: str) -> float:
    """The F1, 0 to 1, of the words in common, each counted as often as it occurs.

    Where one of them has no words, it is 1 if the other has none either. Words are what spaces
    separate: in Chinese or Japanese a whole answer is one word.
    """
    words, expected = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not words or not expected:
        return float(words == expected)
    common = (Counter(words) & Counter(expected)).total()
    return 2 * common / (len(words) + len(expected))


def answer_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> AnswerScores:
    """Score answers; "" says that there is none (Rajpurkar et al. 2018 for questions without).

    Args:
        answers: what a model said.
        references: all answers that are right for each question; none where it has no answer.

    Raises:
        DataError: nothing to score, or other numbers of answers than of questions.
    """
    exact, f1 = _each(answers, references)
    answerable = np.array([bool(of_question) for of_question in references])
    low, high = proportion_interval(int(np.count_nonzero(exact)), len(exact))
    return AnswerScores(
        count=len(answers),
        exact_match=float(exact.mean()),
        exact_match_interval=(100 * low, 100 * high),
        f1=float(f1.mean()),
        f1_interval=bootstrap_interval(f1),
        n_answerable=int(answerable.sum()),
        answerable_exact_match=_mean(exact[answerable]),
        answerable_f1=_mean(f1[answerable]),
        unanswerable_accuracy=_mean(exact[~answerable]),
    )


def best_threshold(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    no_answer_scores: Sequence[float] | np.ndarray,
) -> NoAnswerThreshold:
    """The threshold with the highest F1; it belongs to a validation part, not to the test.

    Args:
        answers: what a model would say, were it to answer each question.
        references: as for `answer_scores`.
        no_answer_scores: of the model for each question, high where it has no answer.

    Raises:
        DataError: nothing to score, numbers that do not agree, or scores that are no numbers.
    """
    _, answered = _each(answers, references)
    scores = np.asarray(no_answer_scores, dtype=float)
    if scores.shape != answered.shape or not np.isfinite(scores).all():
        raise DataError(
            f"{len(scores)} scores for no answer and {len(answered)} answers; expected one finite "
            "score an answer"
        )
    _, silent = _each([""] * len(answers), references)
    order = np.argsort(scores, kind="stable")
    gains = np.cumsum((answered - silent)[order])
    # Questions of one score are answered together, so only the last of them is a place to stop.
    last = np.flatnonzero(np.diff(scores[order], append=math.inf))
    best = last[gains[last].argmax()]
    threshold, gain = float(scores[order][best]), float(gains[best])
    if gain <= 0:  # never to answer is as good
        threshold, gain = math.nextafter(float(scores.min()), -math.inf), 0.0
    return NoAnswerThreshold(threshold=threshold, f1=(float(silent.sum()) + gain) / len(answers))


def _each(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each answer, 0 to 100."""
    if isinstance(answers, str) or any(isinstance(of, str) for of in references):
        raise DataError("one text was given; expected a list of answers, and a list of references")
    if len(answers) != len(references) or not answers:
        raise DataError(
            f"{len(answers)} answers and references for {len(references)} questions: expected the "
            "same number, at least one (was a question left out?)"
        )
    exact, f1 = [], []
    for answer, of_question in zip(answers, references, strict=True):
        # A reference of articles and punctuation alone says nothing; so SQuAD 2.0 drops it.
        right = [text for text in of_question if normalize_answer(text)] or [""]
        exact.append(max(normalize_answer(answer) == normalize_answer(text) for text in right))
        f1.append(max(answer_f1(answer, text) for text in right))
    return 100.0 * np.array(exact), 100.0 * np.array(f1)


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean()) if len(scores) else None

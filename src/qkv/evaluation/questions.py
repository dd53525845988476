"""Question-answering metrics as in SQuAD: exact match and F1 over words."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qkv.errors import DataError
from qkv.evaluation.intervals import bootstrap_interval, proportion_interval

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """All scores of answers, 0 to 100; `dataclasses.asdict` converts them to JSON values.

    Args:
        count: number of questions.
        exact_match: fraction of answers that equal a reference after normalization.
        exact_match_interval: Wilson's 95 % interval.
        f1: mean over the questions of the word F1 with the best reference.
        f1_interval: 95 % bootstrap interval.
        n_answerable: number of questions with an answer.
        answerable_exact_match: exact match on answerable questions; None if there are none.
        answerable_f1: F1 on answerable questions; None if there are none.
        unanswerable_accuracy: fraction of the other questions predicted to have no answer, which is
            the recall of "no answer"; None if there are none.
        no_answer_precision: fraction of the questions predicted to have no answer that have none.
        no_answer_f1: F1 of the class "no answer", of its precision and its recall.
        no_answer_f1_interval: 95 % bootstrap interval.
        always_f1: F1 on answerable questions if the model answered all; None if it does anyway.
        always_exact_match: exact match on answerable questions, likewise.
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
    no_answer_precision: float | None
    no_answer_f1: float | None
    no_answer_f1_interval: tuple[float, float] | None
    always_f1: float | None = None
    always_exact_match: float | None = None


@dataclass(frozen=True, kw_only=True)
class NoAnswerThreshold:
    """The score for "no answer" above which no answer is predicted.

    Args:
        threshold: an answer is predicted if the score is at most this.
        f1: F1 at this threshold, 0 to 100.
    """

    threshold: float
    f1: float


def normalize_answer(text: str) -> str:
    """Lowercase, remove ASCII punctuation and the articles "a", "an", "the", and collapse spaces.

    The order matters: "U.S." becomes "us", and "A." becomes the empty string. Rajpurkar et al.
    2016, https://arxiv.org/abs/1606.05250, section 6.1.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def answer_f1(answer: str, reference: str) -> float:
    """Return the F1, 0 to 1, of the common words, counted with multiplicity.

    If one text has no words, the F1 is 1 if the other has none either, else 0. Words are separated
    by spaces: in Chinese or Japanese, a whole answer is one word.
    """
    words, expected = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not words or not expected:
        return float(words == expected)
    common = (Counter(words) & Counter(expected)).total()
    return 2 * common / (len(words) + len(expected))


def answer_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> AnswerScores:
    """Score answers; "" means no answer (Rajpurkar et al. 2018, for unanswerable questions).

    Args:
        answers: predictions of a model.
        references: all correct answers of each question; empty if it has none.

    Raises:
        DataError: nothing to score, or the number of answers differs from that of questions.
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
        **_no_answer(answers, answerable),
    )


def always_answered(
    scores: AnswerScores, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> AnswerScores:
    """Add the scores on answerable questions of a model that never abstains.

    Args:
        scores: the scores of the model that abstains.
        answers: the best answer to each question, whether the model gave it or not.
        references: as for `answer_scores`.
    """
    exact, f1 = _each(answers, references)
    answerable = np.array([bool(of_question) for of_question in references])
    return replace(
        scores, always_f1=_mean(f1[answerable]), always_exact_match=_mean(exact[answerable])
    )


def best_threshold(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    no_answer_scores: Sequence[float] | np.ndarray,
) -> NoAnswerThreshold:
    """Return the threshold with the highest F1; choose it on validation data, not on test data.

    Args:
        answers: the model's best answer to each question.
        references: as for `answer_scores`.
        no_answer_scores: the model's score for each question, high if it has no answer.

    Raises:
        DataError: nothing to score, sizes that do not match, or scores that are not finite.
    """
    _, answered = _each(answers, references)
    scores = np.asarray(no_answer_scores, dtype=float)
    if scores.shape != answered.shape or not np.isfinite(scores).all():
        raise DataError(
            f"{len(scores)} scores for no answer and {len(answered)} answers; expected one finite "
            "score per answer"
        )
    _, silent = _each([""] * len(answers), references)
    order = np.argsort(scores, kind="stable")
    gains = np.cumsum((answered - silent)[order])
    # Questions with equal scores are answered together, so only the last can be the threshold.
    last = np.flatnonzero(np.diff(scores[order], append=math.inf))
    best = last[gains[last].argmax()]
    threshold, gain = float(scores[order][best]), float(gains[best])
    if gain <= 0:  # never answering is as good
        threshold, gain = math.nextafter(float(scores.min()), -math.inf), 0.0
    return NoAnswerThreshold(threshold=threshold, f1=(float(silent.sum()) + gain) / len(answers))


def _each(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact match and F1 of each answer, 0 to 100."""
    if isinstance(answers, str) or any(isinstance(of, str) for of in references):
        raise DataError("got a single text; expected a list of answers and a list of references")
    if len(answers) != len(references) or not answers:
        raise DataError(
            f"{len(answers)} answers and references for {len(references)} questions: expected the "
            "same number, at least one (was a question left out?)"
        )
    exact, f1 = [], []
    for answer, of_question in zip(answers, references, strict=True):
        # As in SQuAD 2.0, references of only articles and punctuation are dropped.
        right = [text for text in of_question if normalize_answer(text)] or [""]
        exact.append(max(normalize_answer(answer) == normalize_answer(text) for text in right))
        f1.append(max(answer_f1(answer, text) for text in right))
    return 100.0 * np.array(exact), 100.0 * np.array(f1)


def _no_answer(answers: Sequence[str], answerable: np.ndarray) -> dict[str, Any]:
    """Return precision and F1 of "no answer"; None if all questions have one."""
    abstained = np.array([not normalize_answer(answer) for answer in answers])
    right = abstained & ~answerable
    either = 1.0 * abstained + ~answerable  # F1 = 2 right / (abstained + unanswerable)
    if answerable.all():
        return dict.fromkeys(("no_answer_precision", "no_answer_f1", "no_answer_f1_interval"))
    counted = either > 0
    scores = 200.0 * right[counted] / either[counted]
    return {
        "no_answer_precision": _mean(100.0 * right[abstained]),
        "no_answer_f1": float(np.average(scores, weights=either[counted])),
        "no_answer_f1_interval": bootstrap_interval(scores, either[counted]),
    }


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean()) if len(scores) else None

"""Translations, the command `qkv translate` that prints them, and the tables of their scores."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qkv.evaluation.translation import TranslationScores
from qkv.tasks.commands import Predict, score_row
from qkv.tasks.outputs import remark
from qkv.tasks.task import Tables


@dataclass(frozen=True)
class Candidate:
    """One of several translations of a text, and the score that ranks it."""

    translation: str
    score: float


@dataclass(frozen=True)
class Translation:
    """The translation of a text.

    Args:
        text: the source text.
        translation: its translation.
        score: log-probability (nats), divided by the beam's length penalty, plus the weighted score
            of a reverse model (`qkv.tasks.reranking`); the sum over the parts of a split text.
        n_best: the best candidates, best first; for a split text, the k-th candidate joins the k-th
            best of each part.
        note: remark for the reader: the text was split or truncated, or the translation truncated.
    """

    text: str
    translation: str
    score: float
    n_best: list[Candidate]
    note: str = ""

    def __str__(self) -> str:
        """Return the translation."""
        return self.translation


@dataclass(frozen=True, kw_only=True)
class Translate(Predict[Any]):
    """Options of `qkv translate`.

    Args:
        beam: beam size; 1 is greedy decoding; default: from the model's files.
        n_best: number of candidates that --json shows, at most the beam size.
        max_length: maximum number of tokens of a translation; default: from the model's files.
        reverse: model of the opposite direction, which reranks the candidates of the beam, or none;
            default: from the model's files.
    """

    beam: int | None = None
    n_best: int = 1
    max_length: int | None = None
    reverse: str | None = None

    inputs: ClassVar = "the texts to translate, one per argument"
    about: ClassVar = (
        "A text that is too long for the model is split into sentences, and a sentence that is too "
        "long is truncated; a note on standard error reports it."
    )
    roles: ClassVar = ("source",)
    settings: ClassVar = ("beam", "n_best", "max_length", "reverse")
    loads: ClassVar = ("reverse",)

    def line(self, prediction: Translation) -> str:
        """Return the translation in one line."""
        remark(prediction.text, prediction.note)
        return " ".join(prediction.translation.split())


def translation_tables(scores: TranslationScores) -> Tables:
    """Return the scores as a table."""
    named = {"BLEU": scores.bleu, "BLEU, lowercase": scores.bleu_lowercase, "chrF2": scores.chrf}
    rows = [
        score_row(name, one.score, one.interval) | {"signature": one.signature}
        for name, one in named.items()
    ]
    return {f"{scores.count:,} texts": rows}


def translation_line(scores: TranslationScores) -> str:
    """Return the scores as one line."""
    line = ", ".join(f"{name} {score:.2f}" for name, score in scores.named.items())
    return f"{line} of {scores.count:,} texts"

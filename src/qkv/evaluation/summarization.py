"""Summarization metrics: ROUGE by rouge-score, with one or several references."""

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from qkv.errors import DataError, MissingDependencyError
from qkv.evaluation.intervals import bootstrap_interval

KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, kw_only=True)
class Rouge:
    """Mean ROUGE over the summaries, 0 to 100.

    Args:
        precision: fraction of the summary's units that are in the reference.
        recall: fraction of the reference's units that are in the summary.
        f1: harmonic mean of precision and recall, as reported in papers.
        interval: 95 % bootstrap interval of the F1.
    """

    precision: float
    recall: float
    f1: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SummaryScores:
    """All scores of summaries; `dataclasses.asdict` converts them to JSON values.

    Args:
        count: number of summaries.
        rouge1: common words.
        rouge2: common pairs of adjacent words.
        rouge_l: longest common subsequence of words, not necessarily contiguous.
        without_words: number of summaries without a reference that has a letter a-z or a digit, the
            only characters that rouge-score uses; they count as 0.
        signature: description of how the scores were computed.
        by_first: scores with the first reference of each text only; None if all have only one.
    """

    count: int
    rouge1: Rouge
    rouge2: Rouge
    rouge_l: Rouge
    without_words: int
    signature: str
    by_first: "SummaryScores | None" = None

    @property
    def named(self) -> dict[str, Rouge]:
        """The scores by their usual names."""
        return {"ROUGE-1": self.rouge1, "ROUGE-2": self.rouge2, "ROUGE-L": self.rouge_l}


def summary_scores(
    summaries: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    stemmer: bool = True,
) -> SummaryScores:
    """Score summaries (Lin 2004, "ROUGE: a package for automatic evaluation of summaries").

    With several references, the highest F1 counts, separately for each kind of ROUGE. Case and all
    characters but a-z and 0-9 are ignored, so this is for English.

    Args:
        summaries: predictions of a model.
        references: one or more for each summary.
        stemmer: whether to stem words, so that "reports" equals "reported", as in most papers.

    Raises:
        DataError: nothing to score, sizes that do not match, or no reference with a word.
        MissingDependencyError: rouge-score is not installed.
    """
    several = _check(summaries, references)
    scores = _score(summaries, several, stemmer)
    if all(len(of_text) == 1 for of_text in several):
        return scores
    first = [of_text[:1] for of_text in several]
    return replace(scores, by_first=_score(summaries, first, stemmer))


def _score(
    summaries: Sequence[str], several: Sequence[Sequence[str]], stemmer: bool
) -> SummaryScores:
    scorer = _rouge_scorer().RougeScorer(KINDS, use_stemmer=stemmer)
    scores = [scorer.score_multi(of, text) for text, of in zip(summaries, several, strict=True)]
    counts = {len(of_text) for of_text in several}
    nrefs = counts.pop() if len(counts) == 1 else "var"
    version = importlib.metadata.version("rouge-score")
    rouge1, rouge2, rouge_l = (
        _mean(100 * np.array([of_text[kind] for of_text in scores])) for kind in KINDS
    )
    return SummaryScores(
        count=len(summaries),
        rouge1=rouge1,
        rouge2=rouge2,
        rouge_l=rouge_l,
        without_words=sum(not any(map(_has_words, of_text)) for of_text in several),
        signature=f"nrefs:{nrefs}|best:f1|stem:{'yes' if stemmer else 'no'}|rouge-score:{version}",
    )


def _mean(scores: np.ndarray) -> Rouge:
    """Return the mean of rows of precision, recall and F1."""
    precision, recall, f1 = scores.mean(0).tolist()
    return Rouge(
        precision=precision, recall=recall, f1=f1, interval=bootstrap_interval(scores[:, 2])
    )


def _check(
    summaries: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[Sequence[str]]:
    """Return the references of each summary as a list."""
    if isinstance(summaries, str) or isinstance(references, str):
        raise DataError("got a single text; expected lists of summaries and references")
    if len(summaries) != len(references) or not summaries:
        raise DataError(
            f"{len(summaries)} summaries and {len(references)} references: expected the same "
            "number, at least one (was a row left out?)"
        )
    several = [[texts] if isinstance(texts, str) else texts for texts in references]
    for row, of_text in enumerate(several, start=1):
        if not of_text:
            raise DataError(f"summary {row} has no reference: expected one or more")
    if not any(_has_words(text) for of_text in several for text in of_text):
        raise DataError(
            "no reference has a letter a-z or a digit; rouge-score ignores all others (is "
            "this a script other than Latin?)"
        )
    return several


def _has_words(text: str) -> bool:
    return re.search("[a-z0-9]", text.lower()) is not None


def _rouge_scorer() -> ModuleType:
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise MissingDependencyError(
            'summarization metrics need rouge-score: pip install "qkv[train]"'
        ) from error
    return rouge_scorer

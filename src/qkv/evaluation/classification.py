"""Scores of a classifier, by scikit-learn, and whether its probabilities can be believed."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.evaluation.intervals import proportion_interval

Numbers = Sequence[int] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How one class is told from the others; None where a score would be 0/0.

    Args:
        label: the class's name.
        precision: of the texts that were given this class, the share that have it.
        recall: of the texts that have this class, the share that were given it.
        f1: the harmonic mean of both.
        support: the number of texts that have this class.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Texts whose class was given with a probability above `low`, up to `high`.

    Args:
        low: edge.
        high: edge.
        count: how many texts.
        confidence: mean probability of the classes that were given.
        accuracy: share of them that were right; well calibrated, it is the confidence.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """All scores of a classifier on some texts; `dataclasses.asdict` makes JSON values of them.

    Args:
        count: how many texts.
        accuracy: share of the texts that were given their class.
        accuracy_interval: of the accuracy, Wilson's, 95 %.
        loss: mean of -ln of the probability of the text's class, in nats; where that is 0, as for
            the least number of 64 bits.
        macro_f1: mean over the classes that any text has or was given.
        matthews: correlation of what is and what was said, -1 to 1; 0 for guessing, whatever the
            classes' shares, and where all texts were given one class (Matthews 1975; for more than
            two classes Gorodkin 2004).
        classes: one by one.
        confusion: a row for each class that texts have, a column for each that they were given.
        calibration_error: mean distance of confidence and accuracy (see `reliability`).
        reliability: bins by confidence, empty ones left out.
    """

    count: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    macro_f1: float
    matthews: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]


def classification_report(
    truth: Numbers, probabilities: Any, labels: Sequence[str], *, n_bins: int = 15
) -> ClassificationScores:
    """Score probabilities of classes; what counts as said is the likeliest class.

    Args:
        truth: number of each text's class.
        probabilities: (texts, classes), as rows, an array, or a tensor on the CPU.
        labels: names of the classes.
        n_bins: of the reliability.

    Raises:
        DataError: nothing to score, numbers that do not fit together, or rows that are no
            probabilities.
        MissingDependencyError: scikit-learn or SciPy is not installed.
    """
    probabilities = _check(truth, np.asarray(probabilities, dtype=np.float64), labels)
    said, metrics = probabilities.argmax(1), _metrics()
    right = said == np.asarray(truth)
    classes = _each_class(truth, said, labels)
    bins = reliability(probabilities.max(1), right, n_bins=n_bins)
    # scikit-learn warns where all is one class, and its answer is 0 too.
    varied = len({*truth, *said.tolist()}) > 1
    return ClassificationScores(
        count=len(right),
        accuracy=float(metrics.accuracy_score(truth, said)),
        accuracy_interval=proportion_interval(int(right.sum()), len(right)),
        loss=_loss(probabilities, np.asarray(truth)),
        macro_f1=float(np.mean([c.f1 for c in classes if c.f1 is not None])),
        matthews=float(metrics.matthews_corrcoef(truth, said)) if varied else 0.0,
        classes=classes,
        confusion=tuple(
            tuple(row)
            for row in metrics.confusion_matrix(truth, said, labels=range(len(labels))).tolist()
        ),
        calibration_error=calibration_error(bins),
        reliability=bins,
    )


def _loss(probabilities: np.ndarray, truth: np.ndarray) -> float:
    of_truth = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())


def _each_class(truth: Numbers, said: np.ndarray, labels: Sequence[str]) -> tuple[ClassScores, ...]:
    columns = _metrics().precision_recall_fscore_support(
        truth, said, labels=range(len(labels)), zero_division=np.nan
    )
    return tuple(
        ClassScores(
            label=label,
            precision=_number(precision),
            recall=_number(recall),
            f1=_number(f1),
            support=int(support),
        )
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    )


def reliability(
    confidence: Sequence[float] | np.ndarray,
    right: Sequence[bool] | np.ndarray,
    *,
    n_bins: int = 15,
) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width by confidence, from the lowest, empty ones left out.

    Guo et al. 2017, "On calibration of modern neural networks", section 2.

    Args:
        confidence: probability of the class that was given, one a text.
        right: whether it is the text's class.
        n_bins: between 0 and 1.

    Raises:
        ConfigError: fewer than one bin.
        DataError: confidences that are not between 0 and 1, or as many as verdicts.
    """
    if n_bins < 1:
        raise ConfigError(f"n_bins = {n_bins}; expected at least 1")
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right)
    if len(confidence) != len(right) or not ((confidence >= 0) & (confidence <= 1)).all():
        raise DataError(
            f"{len(confidence)} confidences and {len(right)} verdicts; expected the same number, "
            "and confidences from 0 to 1"
        )
    edges = np.arange(n_bins + 1) / n_bins
    # Each bin holds its upper edge; a confidence of 0 goes to the first.
    places = np.maximum(np.searchsorted(edges, confidence, side="left"), 1) - 1
    inside = [(i, places == i) for i in range(n_bins)]
    return tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(chosen.sum()),
            confidence=float(confidence[chosen].mean()),
            accuracy=float(right[chosen].mean()),
        )
        for i, chosen in inside
        if chosen.any()
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error: mean over texts of |accuracy - confidence| of their bin.

    Guo et al. 2017, eq. 3; 0 is best.

    Raises:
        DataError: there are no bins.
    """
    if not bins:
        raise DataError("no bins, no calibration error: expected at least one text")
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / count


def _check(truth: Numbers, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The probabilities, with the sum 1 to the last bits, once all fits together."""
    if not len(truth) or probabilities.shape != (len(truth), len(labels)):
        raise DataError(
            f"probabilities of shape {probabilities.shape} for {len(truth)} texts and "
            f"{len(labels)} classes; expected (texts, classes), with at least one text"
        )
    sums = probabilities.sum(1)
    # Generous enough for rows that a model computed in 16 bits.
    wrong = ~((probabilities >= 0).all(1) & (np.abs(sums - 1) < 0.02))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"row {row + 1} of the probabilities is {probabilities[row].tolist()}, with the sum "
            f"{sums[row]:.4g}; expected none below 0 and the sum 1 (logits without a softmax?)"
        )
    if min(truth) < 0 or max(truth) >= len(labels):
        raise DataError(
            f"classes from {min(truth)} to {max(truth)} were given, but there are {len(labels)} "
            "labels, counted from 0 (were the classes numbered by other labels?)"
        )
    return probabilities / sums[:, None]


def _number(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def _metrics() -> ModuleType:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingDependencyError(
            'the scores of a classifier need scikit-learn: pip install "qkv[train]"'
        ) from error
    return metrics

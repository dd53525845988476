"""Classification metrics by scikit-learn, and the calibration of probabilities."""

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
    """The scores of a class; None if a score would be 0/0.

    Args:
        label: name of the class.
        precision: fraction of the examples predicted as this class that belong to it.
        recall: fraction of the examples of this class that are predicted as it.
        f1: harmonic mean of precision and recall.
        support: number of examples of this class.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Examples whose predicted class has a probability above `low`, up to `high`.

    Args:
        low: lower edge, exclusive.
        high: upper edge, inclusive.
        count: number of examples.
        confidence: mean probability of the predicted classes.
        accuracy: fraction of correct predictions, equal to the confidence if well calibrated.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """All scores of a classifier; `dataclasses.asdict` converts them to JSON values.

    Args:
        count: number of examples.
        accuracy: fraction of correct predictions.
        accuracy_interval: Wilson's 95 % interval of the accuracy.
        loss: mean of -ln of the probability of the true class, in nats; a probability of 0 counts
            as the smallest 64-bit number.
        macro_f1: mean F1 over the classes that occur as truth or prediction.
        matthews: correlation of truth and prediction, -1 to 1; 0 for guessing, for any class
            distribution, and if all predictions are one class (Matthews 1975; for more than two
            classes Gorodkin 2004).
        classes: scores of each class.
        confusion: one row per true class, one column per predicted class.
        calibration_error: mean difference of confidence and accuracy (see `reliability`).
        reliability: bins by confidence, without empty bins.
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


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores:
    """Scores of a classifier that gives each text any number of classes.

    Args:
        count: number of texts.
        accuracy: fraction of texts whose classes are all right (subset accuracy).
        accuracy_interval: Wilson's 95 % interval of the accuracy.
        majority: accuracy of always predicting the most frequent combination of classes.
        loss: mean over texts and classes of -ln of the probability of the true value, in nats.
        micro_f1: F1 over all decisions, classes together.
        macro_f1: mean F1 over all classes that occur as a label or as a prediction.
        classes: the scores of each class.
    """

    count: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    majority: float
    loss: float
    micro_f1: float
    macro_f1: float
    classes: tuple[ClassScores, ...]


def multi_label_report(
    truth: Sequence[Sequence[float]], probabilities: Any, labels: Sequence[str]
) -> MultiLabelScores:
    """Score independent probabilities of classes; a class is predicted from 0.5 on.

    Args:
        truth: (texts, classes), 1 where the text has the class and 0 elsewhere.
        probabilities: (texts, classes), as rows, an array, or a tensor on the CPU.
        labels: names of the classes.

    Raises:
        DataError: nothing to score, shapes that do not fit, or numbers that are no probabilities.
        MissingDependencyError: scikit-learn or SciPy is not installed.
    """
    true, rows = np.asarray(truth, dtype=int), np.asarray(probabilities, dtype=np.float64)
    if not len(true) or true.shape != rows.shape or rows.shape[1] != len(labels):
        raise DataError(
            f"probabilities of shape {rows.shape} for classes of shape {true.shape} and "
            f"{len(labels)} labels; expected (texts, classes), with at least one text"
        )
    if not ((rows >= 0) & (rows <= 1)).all():
        raise DataError(
            f"probabilities from {rows.min():.4g} to {rows.max():.4g}; expected 0 to 1 (logits "
            "without a sigmoid?)"
        )
    predicted, metrics = (rows >= 0.5).astype(int), _metrics()
    right = (predicted == true).all(1)
    columns = metrics.precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    classes = _class_scores(labels, columns)
    of_truth = np.where(true == 1, rows, 1 - rows)
    return MultiLabelScores(
        count=len(true),
        accuracy=float(right.mean()),
        accuracy_interval=proportion_interval(int(right.sum()), len(true)),
        majority=float(np.unique(true, axis=0, return_counts=True)[1].max() / len(true)),
        loss=float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean()),
        micro_f1=float(metrics.f1_score(true, predicted, average="micro", zero_division=0.0)),
        macro_f1=float(np.mean([c.f1 for c in classes if c.f1 is not None] or [0.0])),
        classes=classes,
    )


def classification_report(
    truth: Numbers, probabilities: Any, labels: Sequence[str], *, n_bins: int = 15
) -> ClassificationScores:
    """Score class probabilities; the most probable class is the prediction.

    Args:
        truth: index of each example's class.
        probabilities: (examples, classes), as rows, an array, or a tensor on the CPU.
        labels: names of the classes.
        n_bins: number of reliability bins.

    Raises:
        DataError: nothing to score, sizes that do not match, or rows that are not probabilities.
        MissingDependencyError: scikit-learn or SciPy is not installed.
    """
    probabilities = _check(truth, np.asarray(probabilities, dtype=np.float64), labels)
    pred, metrics = probabilities.argmax(1), _metrics()
    right = pred == np.asarray(truth)
    classes = _each_class(truth, pred, labels)
    bins = reliability(probabilities.max(1), right, n_bins=n_bins)
    # scikit-learn warns if there is a single class, and also returns 0.
    varied = len({*truth, *pred.tolist()}) > 1
    return ClassificationScores(
        count=len(right),
        accuracy=float(metrics.accuracy_score(truth, pred)),
        accuracy_interval=proportion_interval(int(right.sum()), len(right)),
        loss=_loss(probabilities, np.asarray(truth)),
        macro_f1=float(np.mean([c.f1 for c in classes if c.f1 is not None])),
        matthews=float(metrics.matthews_corrcoef(truth, pred)) if varied else 0.0,
        classes=classes,
        confusion=tuple(
            tuple(row)
            for row in metrics.confusion_matrix(truth, pred, labels=range(len(labels))).tolist()
        ),
        calibration_error=calibration_error(bins),
        reliability=bins,
    )


def _loss(probabilities: np.ndarray, truth: np.ndarray) -> float:
    of_truth = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())


def _each_class(truth: Numbers, pred: np.ndarray, labels: Sequence[str]) -> tuple[ClassScores, ...]:
    columns = _metrics().precision_recall_fscore_support(
        truth, pred, labels=range(len(labels)), zero_division=np.nan
    )
    return _class_scores(labels, columns)


def _class_scores(labels: Sequence[str], columns: Any) -> tuple[ClassScores, ...]:
    """Make scores from scikit-learn's columns: precision, recall, F1, support."""
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
    """Return bins of equal width by confidence, in ascending order, without empty bins.

    Guo et al. 2017, "On calibration of modern neural networks", section 2.

    Args:
        confidence: probability of the predicted class, per example.
        right: whether the prediction is correct.
        n_bins: number of bins between 0 and 1.

    Raises:
        ConfigError: fewer than one bin.
        DataError: confidences that are not between 0 and 1, or whose number differs from `right`.
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
    # Each bin includes its upper edge; a confidence of 0 belongs to the first.
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
    """Return the expected calibration error: the mean of |accuracy - confidence| over examples.

    Guo et al. 2017, eq. 3; 0 is best.

    Raises:
        DataError: there are no bins.
    """
    if not bins:
        raise DataError("there are no bins; expected at least one example")
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / count


def _check(truth: Numbers, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Check the input; return the probabilities, normalized to sum exactly to 1."""
    if not len(truth) or probabilities.shape != (len(truth), len(labels)):
        raise DataError(
            f"probabilities of shape {probabilities.shape} for {len(truth)} texts and "
            f"{len(labels)} classes; expected (texts, classes), with at least one text"
        )
    sums = probabilities.sum(1)
    # Tolerant enough for rows that a model computed in 16 bits.
    wrong = ~((probabilities >= 0).all(1) & (np.abs(sums - 1) < 0.02))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"row {row + 1} of the probabilities is {probabilities[row].tolist()}, with the sum "
            f"{sums[row]:.4g}; expected none below 0 and the sum 1 (logits without a softmax?)"
        )
    if min(truth) < 0 or max(truth) >= len(labels):
        raise DataError(
            f"got classes from {min(truth)} to {max(truth)}, but there are {len(labels)} "
            "labels, counted from 0 (do the classes belong to other labels?)"
        )
    return probabilities / sums[:, None]


def _number(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def _metrics() -> ModuleType:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingDependencyError(
            'classification metrics need scikit-learn: pip install "qkv[train]"'
        ) from error
    return metrics

"""Shared code of tasks with classes: class names, counts, and tables of scores."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qkv.checkpoints.harmless import read_labels
from qkv.data.labels import Labels, PairExample, TextExample
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores, ClassScores, MultiLabelScores
from qkv.json_fields import quoted
from qkv.tasks.pipeline import recorded, tokenizer_setting
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import Splits
from qkv.tasks.task import Tables

SHOWN = 20  # number of classes named of a longer list
SEPARATOR = "|"  # between the labels of a text that has several
PAIRS = "text_pairs"  # in tokenizer_config.json, ours: whether inputs are pairs
PARAMETERS = "text-classification"  # in task_specific_params of config.json

Scores = ClassificationScores | MultiLabelScores


@dataclass(frozen=True)
class TextSettings:
    """Settings of a classifier in config.json.

    Args:
        prefix: text that precedes each input. The first token of a decoder is an attention sink,
            whose state depends little on the token, so a text of one token needs another before it.
    """

    prefix: str = ""


@dataclass(frozen=True)
class Prediction:
    """The classification of a text.

    Args:
        text: the text.
        label: the most probable class; if a text may have several, all classes with a probability
            of at least 0.5, separated by "|".
        probability: probability of the label.
        probabilities: probability of each class.
        note: remark for the reader, such as that the text was truncated.
    """

    text: str
    label: str
    probability: float
    probabilities: dict[str, float]
    note: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class PairPrediction(Prediction):
    """The classification of a pair of texts; `second` is the second text."""

    second: str


def make_example(text: str, label: str, second: str | None = None) -> TextExample | PairExample:
    """Make an example from a row's fields."""
    return TextExample(text, label) if second is None else PairExample(text, label, second)


def check_prefix(prefix: str, loaded: Loaded, max_length: int) -> None:
    """Raise ConfigError if a prefix leaves no room for a text."""
    tokenizer = loaded.tokenizer
    if prefix and tokenizer and len(tokenizer.encode(prefix)) >= max_length - 2:
        raise ConfigError(
            f"prefix = {quoted(prefix)} leaves no room for a text of max_length = {max_length} "
            "tokens; expected a few words"
        )


def check_pairs(loaded: Loaded, *, pairs: bool) -> None:
    """Raise DataError if inputs are pairs and the model's are single texts, or the reverse.

    An adapter, which has its base's tokenizer, was trained on pairs if its recorded columns include
    a second text. Files of other libraries do not record this.
    """
    trained = loaded.tokenizer and tokenizer_setting(loaded.tokenizer, PAIRS)
    columns = recorded(loaded.config).get("columns")
    if trained is None and isinstance(columns, dict):
        trained = "second" in columns
    if trained is not None and trained != pairs:
        kinds = ("single texts", "pairs of texts")
        raise DataError(
            f"the inputs are {kinds[not trained]}; this model classifies {kinds[trained]}"
        )


def labels_of(loaded: Loaded) -> Labels:
    """Return the names of the classes, in the order of the logits."""
    names = read_labels(loaded.config)
    # The default names of transformers.
    return Labels(names or [f"LABEL_{i}" for i in range(loaded.model.n_classes)])


def check_classes(loaded: Loaded) -> None:
    """Raise ConfigError if the head has a single output."""
    if loaded.model.n_classes == 1:
        raise ConfigError(
            f"the {type(loaded.model).__name__} has one output, which is a score (a regression, or "
            "a cross-encoder's score of how well two texts fit); expected two classes or more"
        )


def check_known(known: Labels, splits: Splits[Any], names: Callable[[Any], Iterable[str]]) -> None:
    """Raise DataError, before the training, if another split has a class that training lacks.

    Args:
        known: the classes of the training examples.
        splits: the examples.
        names: the classes of an example.
    """
    for split in ("validation", "test"):
        for example in getattr(splits, split):
            for name in names(example):
                known.number(name, f"data.{split}, {quoted(example.text, 40)}")


def targets_of(labels: Labels, example: TextExample | PairExample, *, several: bool) -> Any:
    """Return the number of an example's class, or for several classes a 0 or 1 for each class.

    Raises:
        DataError: training had no such class.
    """
    where = f"text {quoted(example.text, 40)}"
    if not several:
        return labels.number(example.label, where)
    numbers = {labels.number(name, where) for name in split_labels(example.label)}
    return [float(number in numbers) for number in range(len(labels))]


def split_labels(label: str) -> list[str]:
    """Return the labels of a text that may have several, or none."""
    return [name.strip() for name in label.split(SEPARATOR) if name.strip()]


def classes_line(counts: Mapping[str, int]) -> str:
    """Return the classes and the number of examples of each, as one line."""
    names = Labels.of(counts).names
    classes = [f"{name} ({counts[name]:,})" for name in names]
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return f"{len(classes)} classes: {', '.join(classes[:SHOWN])}{more}"


def class_metrics(scores: Scores) -> dict[str, float]:
    """Return the scores that are watched during training."""
    return {"accuracy": scores.accuracy, "macro F1": scores.macro_f1, "loss": scores.loss}


def score_line(scores: Scores) -> str:
    """Return the scores as one line, beside the score of always predicting the largest class."""
    if isinstance(scores, MultiLabelScores):
        return (
            f"micro-F1 {scores.micro_f1:.2%}, macro-F1 {scores.macro_f1:.2%}, all labels right "
            f"{scores.accuracy:.2%} of {scores.count:,} (largest combination: "
            f"{scores.majority:.2%})"
        )
    low, high = scores.accuracy_interval
    majority = max(one.support for one in scores.classes) / scores.count
    return (
        f"accuracy {scores.accuracy:.2%} of {scores.count:,} (95 %: {low:.2%} to {high:.2%}; "
        f"largest class: {majority:.2%}), macro-F1 {scores.macro_f1:.2%}"
    )


def class_tables(scores: Scores) -> Tables:
    """Return the scores as tables: summary, classes, and further tables for single labels."""
    classes = [_class_row(one) for one in scores.classes]
    low, high = scores.accuracy_interval
    accuracy = f"{scores.accuracy:.1%} ({low:.1%} to {high:.1%})"
    title = f"{scores.count:,} examples"
    if isinstance(scores, MultiLabelScores):
        summary = {
            "micro F1": f"{scores.micro_f1:.1%}",
            "macro F1": f"{scores.macro_f1:.1%}",
            "all labels right": accuracy,
            "largest combination": f"{scores.majority:.1%}",
        }
        return {title: [summary], "classes": classes}
    summary = {
        "accuracy": accuracy,
        "largest class": f"{max(one.support for one in scores.classes) / scores.count:.1%}",
        "macro F1": f"{scores.macro_f1:.1%}",
        "Matthews": f"{scores.matthews:.3f}",
        "calibration error": f"{scores.calibration_error:.1%}",
    }
    return {title: [summary], "classes": classes, **_confusion_and_calibration(scores)}


def _confusion_and_calibration(scores: ClassificationScores) -> Tables:
    names = [one.label for one in scores.classes]
    confusion: list[Any] = [
        {"": name} | {other: f"{n:,}" for other, n in zip(names, row, strict=True)}
        for name, row in zip(names, scores.confusion, strict=True)
    ]
    return {
        "confusion matrix: true classes (rows), predicted classes (columns)": confusion,
        "calibration: probability of the predicted class, and how often it is right": [
            {
                "probability": f"{one.low:.2f} to {one.high:.2f}",
                "examples": f"{one.count:,}",
                "mean": f"{one.confidence:.1%}",
                "right": f"{one.accuracy:.1%}",
            }
            for one in scores.reliability
        ],
    }


def _class_row(scores: ClassScores) -> dict[str, str]:
    return {
        "class": scores.label,
        "precision": percent(scores.precision),
        "recall": percent(scores.recall),
        "F1": percent(scores.f1),
        "examples": f"{scores.support:,}",
    }


def percent(share: float | None) -> str:
    """Format a share; "-" if there is none."""
    return "-" if share is None else f"{share:.1%}"

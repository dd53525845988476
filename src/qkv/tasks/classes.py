"""What classifying texts and classifying images have in common."""

from collections.abc import Mapping

from qkv.checkpoints.harmless import read_labels
from qkv.data.labels import Labels
from qkv.errors import ConfigError
from qkv.evaluation.classification import ClassificationScores
from qkv.tasks.pretrained import Loaded

SHOWN = 20  # classes of a longer list that are named


def labels_of(loaded: Loaded) -> Labels:
    """The classes' names, in the order of the logits."""
    names = read_labels(loaded.config)
    # Where there are none, transformers calls them so.
    return Labels(names or [f"LABEL_{i}" for i in range(loaded.model.n_classes)])


def check_classes(loaded: Loaded) -> None:
    """Refuse a head that gives one number.

    Raises:
        ConfigError: saying what such a model is.
    """
    if loaded.model.n_classes == 1:
        raise ConfigError(
            f"its {type(loaded.model).__name__} has one output, which is a score (of how well two "
            "texts fit, as cross-encoders give one, or of a regression); expected two classes or "
            "more"
        )


def classes_line(labels: Labels, counts: Mapping[int, int]) -> str:
    """Which classes there are to learn, and how many examples of each."""
    classes = [f"{name} ({counts.get(i, 0):,})" for i, name in enumerate(labels.names)]
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return f"{len(classes)} classes: {', '.join(classes[:SHOWN])}{more}"


def accuracy_line(scores: ClassificationScores, *, unit: str) -> str:
    """The scores in a line; `unit` is what is classified."""
    low, high = scores.accuracy_interval
    return (
        f"accuracy {scores.accuracy:.2%} of {scores.count:,} {unit} (95 %: {low:.2%} to "
        f"{high:.2%}), macro-F1 {scores.macro_f1:.2%}"
    )

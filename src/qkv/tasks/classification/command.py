"""`qkv classify`: a trained classifier on texts and files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qkv.errors import ConfigError
from qkv.evaluation.classification import ClassificationScores
from qkv.tasks.classification.classifier import PairPrediction, Prediction, TextClassifier
from qkv.tasks.inputs import Item, check_texts, pick_device, text_items
from qkv.tasks.options import (
    AllowDownload,
    Columns,
    Device,
    File,
    Json,
    Model,
    Output,
    name_columns,
)
from qkv.tasks.outputs import answer_all, remark

DEFAULT = "sentiment"  # of the zoo


def classify(
    *texts: str,
    model: Model = DEFAULT,
    file: File = None,
    columns: Columns = None,
    output: Output = None,
    second: str | None = None,
    json: Json = False,
    max_length: int | None = None,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Classify texts from arguments, a file, or standard input.

    Args:
        texts: the texts to classify, one per argument.
        second: the text that each is paired with, for models of text pairs; if both are columns of
            a table, use --columns.second.
        max_length: tokens of a text, of which the rest is cut off; as in training if not given.
    """
    items = pair_items(texts, file, columns or {}, second)
    classifier = TextClassifier.load(
        model, max_length=max_length, device=pick_device(device), allow_download=allow_download
    )
    answer_all(
        items,
        lambda asked: classifier(
            [one["text"] for one in asked],
            [one["second"] for one in asked] if "second" in asked[0] else None,
            progress=True,
        ),
        line=_as_line,
        as_json=json,
        output=output,
    )


def pair_items(
    texts: Sequence[str], file: Path | None, columns: dict[str, str], second: str | None
) -> list[Item]:
    """Return the texts, each with its second one if there is any.

    Raises:
        ConfigError: both arguments and a file, a column without a table, or a second text that is
            empty, looks like a name, or is given twice.
        DataError: there is no text, or the file cannot be read.
    """
    if "second" in columns:
        if second is not None or file is None or file.suffix == ".txt":
            raise ConfigError(
                f"columns.second = {columns['second']!r} names a column of a table; expected "
                "--file TABLE, and no --second beside it"
            )
        return text_items(texts, file, name_columns(columns, "text", "second"))
    items = text_items(texts, file, name_columns(columns, "text"))
    if second is None:
        return items
    if not second.strip():
        raise ConfigError("--second is empty; expected a text")
    check_texts([second])
    return [
        item if item.problem else replace(item, fields={**item.fields, "second": second})
        for item in items
    ]


def tables_of(scores: ClassificationScores, unit: str = "texts") -> dict[str, list[dict[str, str]]]:
    """The scores as tables: all in all, class by class, the confusion matrix, the calibration."""
    low, high = scores.accuracy_interval
    names = [one.label for one in scores.classes]
    return {
        f"{scores.count:,} {unit}": [
            {
                "accuracy": f"{scores.accuracy:.1%} ({low:.1%} to {high:.1%})",
                "macro F1": f"{scores.macro_f1:.1%}",
                "Matthews": f"{scores.matthews:.3f}",
                "calibration error": f"{scores.calibration_error:.1%}",
            }
        ],
        "classes": [
            {
                "class": one.label,
                "precision": _percent(one.precision),
                "recall": _percent(one.recall),
                "F1": _percent(one.f1),
                unit: f"{one.support:,}",
            }
            for one in scores.classes
        ],
        f"confusion: what {unit} are (rows), what they were said to be (columns)": [
            {"": name} | {said: f"{n:,}" for said, n in zip(names, row, strict=True)}
            for name, row in zip(names, scores.confusion, strict=True)
        ],
        "calibration: how sure, and how often right": [
            {
                "probability": f"{one.low:.2f} to {one.high:.2f}",
                unit: f"{one.count:,}",
                "mean": f"{one.confidence:.1%}",
                "right": f"{one.accuracy:.1%}",
            }
            for one in scores.reliability
        ],
    }


def _as_line(prediction: Prediction) -> str:
    """Tab-separated; a text keeps to its line. That it was cut is said where the errors go."""
    remark(prediction.text, prediction.note)
    said = [f"{prediction.label}\t{prediction.probability:.4f}", prediction.text]
    if isinstance(prediction, PairPrediction):
        said.append(prediction.second)
    return "\t".join([said[0], *(" ".join(text.split()) for text in said[1:])])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

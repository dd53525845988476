"""`qkv classify`: a trained classifier on texts and files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qkv.errors import ConfigError
from qkv.evaluation.classification import ClassificationScores
from qkv.tasks.classification.classifier import PairPrediction, Prediction, TextClassifier
from qkv.tasks.inputs import Item, answer_all, check_texts, pick_device, remark, text_items
from qkv.tasks.streams import as_text

DEFAULT = "sentiment"  # of the zoo


def classify(
    *texts: str,
    model: str = DEFAULT,
    file: Path | None = None,
    column: str = "text",
    second: str | None = None,
    json: bool = False,
    max_length: int | None = None,
    device: str = "auto",
    allow_download: bool = False,
) -> None:
    """Say the class of texts: arguments, a file, or the lines of standard input.

    Args:
        texts: each an argument.
        model: (or -m) a folder that qkv train made, a name of the zoo or an id of the Hugging Face
            Hub.
        file: (or -f) a .csv, .tsv, .jsonl or .parquet table of texts, or a .txt file of one text a
            line.
        column: of the table.
        second: what each text is paired with, for a model of pairs; of a table, the column of it.
        json: one JSON object a text, with the probabilities of all classes.
        max_length: tokens of a text, of which the rest is cut off; as in training if not given.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
        allow_download: ask the Hub for a base that a file of the model names.
    """
    items = asked_items(texts, file, column, second)
    classifier = TextClassifier.load(
        model, max_length=max_length, device=pick_device(device), allow_download=allow_download
    )
    answer_all(
        items,
        lambda asked: classifier(
            [one["text"] for one in asked],
            None if second is None else [one["second"] for one in asked],
            progress=True,
        ),
        line=_as_line,
        as_json=json,
    )


def asked_items(
    texts: Sequence[str], file: Path | None, column: str, second: str | None
) -> list[Item]:
    """The texts, each with its second one if there is any.

    Raises:
        ConfigError: both arguments and a file, or a second text that is empty or looks like a name.
        DataError: there is no text, or the file cannot be read.
    """
    if second is None:
        return text_items(texts, file, {"text": column})
    if not second.strip():
        raise ConfigError("--second is empty; expected a text, or the name of a table's column")
    if file is not None and file.suffix != ".txt":
        return text_items(texts, file, {"text": column, "second": second})
    check_texts([second])
    items = text_items(texts, file, {"text": column})
    return [
        item if item.problem else replace(item, fields={**item.fields, "second": as_text(second)})
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

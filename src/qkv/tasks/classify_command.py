"""`qkv classify` and `qkv evaluate`: a trained classifier on texts and files."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from qkv.data.tables import read_table
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores
from qkv.tasks.classification import Prediction, TextClassifier
from qkv.tasks.classification_texts import read_texts
from qkv.tasks.console import show_table


def classify(
    model: str,
    /,
    *texts: str,
    file: Path | None = None,
    column: str = "text",
    json: bool = False,
    max_length: int | None = None,
    device: str = "auto",
) -> None:
    """Say the class of texts: arguments, a file, or the lines of standard input.

    Args:
        model: a folder that qkv train made, or an id of the Hugging Face Hub.
        texts: what to classify.
        file: a .csv, .tsv, .jsonl or .parquet table of texts, or a .txt file of one text a line.
        column: of the table.
        json: one JSON object a text, with the probabilities of all classes.
        max_length: tokens of a text, of which the rest is cut off; as in training if not given.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
    """
    if texts and file is not None:
        raise ConfigError(
            f"{len(texts)} texts and --file {file} were given; expected one of the two"
        )
    asked = list(texts) or _read(file, column)
    classifier = TextClassifier.load(model, max_length=max_length, device=_device(device))
    for prediction in classifier(asked, progress=True):
        print(_dumps(asdict(prediction)) if json else _as_line(prediction))


def evaluate(
    model: str,
    /,
    *,
    data: str,
    text: str = "text",
    label: str = "label",
    data_dir: Path | None = None,
    json: bool = False,
    max_length: int | None = None,
    device: str = "auto",
) -> None:
    """Score a classifier on texts whose classes are known.

    Args:
        model: a folder that qkv train made, or an id of the Hugging Face Hub.
        data: a .csv, .tsv, .jsonl or .parquet table; a named set, such as reviews (its test part),
            or a part of one, such as reviews:validation; or a data set of the Hub.
        text: the column of the texts.
        label: the column of the labels.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.
        json: all scores as one JSON object.
        max_length: tokens of a text, of which the rest is cut off; as in training if not given.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
    """
    classifier = TextClassifier.load(model, max_length=max_length, device=_device(device))
    columns = {"text": text, "label": label, "data_dir": data_dir}
    examples = read_texts(data, "test", known=classifier.labels, **columns)
    scores = classifier.evaluate(examples, progress=True)
    if json:
        print(_dumps(asdict(scores)))
        return
    for title, rows in tables_of(scores).items():
        show_table(title, rows)


def tables_of(scores: ClassificationScores) -> dict[str, list[dict[str, str]]]:
    """The scores as tables: all in all, class by class, the confusion matrix, the calibration."""
    low, high = scores.accuracy_interval
    names = [one.label for one in scores.classes]
    return {
        f"{scores.count:,} texts": [
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
                "texts": f"{one.support:,}",
            }
            for one in scores.classes
        ],
        "confusion: what texts are (rows), what they were said to be (columns)": [
            {"": name} | {said: f"{n:,}" for said, n in zip(names, row, strict=True)}
            for name, row in zip(names, scores.confusion, strict=True)
        ],
        "calibration: how sure, and how often right": [
            {
                "probability": f"{one.low:.2f} to {one.high:.2f}",
                "texts": f"{one.count:,}",
                "mean": f"{one.confidence:.1%}",
                "right": f"{one.accuracy:.1%}",
            }
            for one in scores.reliability
        ],
    }


def _read(file: Path | None, column: str) -> list[str]:
    """The texts of a file, or of standard input."""
    if file is None:
        if sys.stdin.isatty():
            raise DataError(
                "no text to classify: expected texts after the model, --file FILE, or lines on "
                "standard input"
            )
        return _lines(sys.stdin.buffer.read(), "standard input")
    if file.suffix != ".txt":
        return [row.fields["text"] for row in read_table(file, {"text": column})]
    try:
        return _lines(file.read_bytes(), str(file))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _lines(content: bytes, where: str) -> list[str]:
    """One text a line, as many as there are lines; blank ones at the end do not count."""
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}, line {line}, is not UTF-8: byte {content[error.start]:#04x} (another "
            "encoding, such as Latin-1?)"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{where} is empty: expected one text a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{where}, line {number}, is empty: expected one text a line")
    return [line.removesuffix("\r") for line in lines]


def _device(name: str) -> torch.device:
    """The device of this name; an accelerator for "auto", if there is one."""
    if name == "auto":
        has_one = torch.accelerator.is_available()
        return (has_one and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device = {name!r} cannot be used: {reason}") from error


def _as_line(prediction: Prediction) -> str:
    """Tab-separated; a text keeps to its line."""
    text = " ".join(prediction.text.split())
    return f"{prediction.label}\t{prediction.probability:.4f}\t{text}"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

"""`qkv classify` and `qkv evaluate`: a trained classifier on texts and files."""

from dataclasses import asdict
from pathlib import Path

from qkv.evaluation.classification import ClassificationScores
from qkv.tasks.classification import Prediction, TextClassifier
from qkv.tasks.classification_texts import read_texts
from qkv.tasks.console import show_table
from qkv.tasks.inputs import answer_all, dumps, pick_device, split_model, text_items

DEFAULT = "sentiment"  # of the zoo


def classify(
    *inputs: str,
    model: str | None = None,
    file: Path | None = None,
    column: str = "text",
    json: bool = False,
    max_length: int | None = None,
    device: str = "auto",
) -> None:
    """Say the class of texts: arguments, a file, or the lines of standard input.

    Args:
        inputs: the model and the texts: qkv classify MODEL TEXT TEXT. The model is a folder that
            qkv train made, a name of the zoo or an id of the Hugging Face Hub; without one,
            sentiment.
        model: if it is not the first of the inputs.
        file: a .csv, .tsv, .jsonl or .parquet table of texts, or a .txt file of one text a line.
        column: of the table.
        json: one JSON object a text, with the probabilities of all classes.
        max_length: tokens of a text, of which the rest is cut off; as in training if not given.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
    """
    name, texts = split_model(inputs, model, DEFAULT)
    items = text_items(texts, file, {"text": column})
    classifier = TextClassifier.load(name, max_length=max_length, device=pick_device(device))
    answer_all(
        items,
        lambda asked: classifier([one["text"] for one in asked], progress=True),
        line=_as_line,
        as_json=json,
    )


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
    classifier = TextClassifier.load(model, max_length=max_length, device=pick_device(device))
    columns = {"text": text, "label": label, "data_dir": data_dir}
    examples = read_texts(data, "test", known=classifier.labels, **columns)
    scores = classifier.evaluate(examples, progress=True)
    if json:
        print(dumps(asdict(scores)))
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


def _as_line(prediction: Prediction) -> str:
    """Tab-separated; a text keeps to its line."""
    text = " ".join(prediction.text.split())
    return f"{prediction.label}\t{prediction.probability:.4f}\t{text}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

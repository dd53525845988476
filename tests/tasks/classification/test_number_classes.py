"""Classes whose names are numbers, as data sets of the Hub have them, and a head of one output."""

import json

import pytest
from tests.tasks.small import sentences, write_base, write_classifier

from qkv.cli import main
from qkv.data.labels import Labels
from qkv.errors import ConfigError
from qkv.tasks.classification import TextClassifier
from qkv.tasks.pretrained import load, save

NUMBERS = {"bad": 0, "good": 1}


@pytest.fixture
def model(tmp_path):
    """A classifier whose config.json is written over: of the names, or other fields."""

    def write(**config):
        folder = write_classifier(
            tmp_path / "model", Labels(["0", "1"]), write_base(tmp_path / "b")
        )
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return str(folder)

    return write


def write_data(folder, kind, classes):
    rows = [(text, classes[label]) for text, label in sentences(12)]
    path = folder / f"data.{kind}"
    if kind == "csv":
        path.write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]))
    else:
        path.write_text("\n".join(json.dumps({"text": t, "label": label}) for t, label in rows))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ({"0": 0, "1": 1}, NUMBERS),
        ({"0": "0", "1": "1"}, NUMBERS),
        ({"0": -1, "1": 1}, {"bad": -1, "good": 1}),
        ({"0": 4, "1": 5}, {"bad": "4", "good": "5"}),
        ({"0": "LABEL_0", "1": "LABEL_1"}, NUMBERS),  # transformers' word for no names
        (None, NUMBERS),
    ],
)
def test_they_are_evaluated(model, tmp_path, capsys, names, classes, kind):
    folder = model(id2label=names)
    data = write_data(tmp_path, kind, classes)
    assert main(["evaluate", folder, "--data", data, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["count"] == 12
    assert [one["support"] for one in scores["classes"]] == [6, 6]
    shown = [str(name) for name in (names or {"0": "LABEL_0", "1": "LABEL_1"}).values()]
    assert [one["label"] for one in scores["classes"]] == shown


def test_a_number_is_no_class_that_has_another_name(model, tmp_path, capsys):
    folder = model(id2label={"0": "bad", "1": "good"})
    assert main(["evaluate", folder, "--data", write_data(tmp_path, "csv", NUMBERS)]) == 2
    assert "the label '0' was never seen in training; known are" in capsys.readouterr().err


def test_one_output_is_no_class(tmp_path, capsys):
    """A cross-encoder is told so: neither the names of classes nor the csv are to blame."""
    architecture = "BertForSequenceClassification"
    base = write_base(tmp_path / "base")
    loaded = load(base, architecture=architecture, new="classifier", labels=["LABEL_0"])
    save(loaded, tmp_path / "made")
    with pytest.raises(
        ConfigError, match="the SequenceClassifier has one output, which is a score"
    ):
        TextClassifier.load(tmp_path / "made")
    data = write_data(tmp_path, "csv", NUMBERS)
    assert main(["evaluate", str(tmp_path / "made"), "--data", data]) == 2
    said = capsys.readouterr().err
    assert "a cross-encoder's score" in said
    assert "data.csv" not in said

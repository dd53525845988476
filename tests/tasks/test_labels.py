"""Names, counts and scores of classes, as they are shown."""

import pytest
from torch import nn, tensor

from qkv.data.labels import Labels, TextExample
from qkv.errors import DataError
from qkv.evaluation.classification import classification_report, multi_label_report
from qkv.tasks.labels import (
    check_known,
    class_tables,
    classes_line,
    labels_of,
    score_line,
    split_labels,
    targets_of,
)
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import Splits


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"10": "k", "2": "c", "0": "a"}}, ["a", "c", "k"]),
        ({"id2label": {}}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
)
def test_names_stand_in_the_order_of_the_logits(config, names):
    model = nn.Module()
    model.n_classes = 3
    assert list(labels_of(Loaded(model, config=config)).names) == names


def test_of_many_classes_the_first_are_named():
    assert classes_line({"b": 1, "a": 1_234}) == "2 classes: a (1,234), b (1)"
    line = classes_line({f"c{i:02}": i for i in range(23)})
    assert line.startswith("23 classes: c00 (0), c01 (1), ")
    assert line.endswith(", c19 (19) and 3 more")


def test_an_accuracy_stands_beside_its_count_and_the_largest_class():
    chances = tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    line = score_line(classification_report([0, 1, 1], chances, ["a", "b"]))
    assert line == (
        "accuracy 66.67% of 3 (95 %: 20.77% to 93.85%; largest class: 66.67%), macro-F1 66.67%"
    )


def test_scores_of_several_classes_per_text_are_shown():
    truth = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    rows = [[0.9, 0.1, 0.2], [0.9, 0.2, 0.4], [0.5, 0.4, 0.1], [0.1, 0.1, 0.1]]
    scores = multi_label_report(truth, rows, ["a", "b", "c"])
    assert score_line(scores) == (
        "micro-F1 85.71%, macro-F1 50.00%, all labels right 75.00% of 4 (largest combination: "
        "50.00%)"
    )
    tables = class_tables(scores)
    assert list(tables) == ["4 examples", "classes"]
    (summary,) = tables["4 examples"]
    assert summary["micro F1"] == "85.7%"
    assert summary["all labels right"].startswith("75.0% (")
    assert [row["F1"] for row in tables["classes"]] == ["100.0%", "0.0%", "-"]


def test_labels_of_a_text_that_has_several_or_none():
    assert split_labels(" b | a ") == ["b", "a"]
    assert split_labels("|") == []
    known = Labels(["a", "b", "c"])
    assert targets_of(known, TextExample("x", "c|a"), several=True) == [1.0, 0.0, 1.0]
    assert targets_of(known, TextExample("x", "|"), several=True) == [0.0, 0.0, 0.0]
    assert targets_of(known, TextExample("x", "c"), several=False) == 2
    for several in (True, False):
        with pytest.raises(DataError, match="text 'x': the label 'd' was never seen in training"):
            targets_of(known, TextExample("x", "d"), several=several)


def test_classes_of_other_splits_are_known_in_training():
    train, other = [TextExample("t", "a"), TextExample("u", "b")], [TextExample("v", "c")]
    known = Labels(["a", "b"])
    check_known(known, Splits(train=train, validation=train), lambda one: [one.label])
    for name, splits in {
        "validation": Splits(train=train, validation=other),
        "test": Splits(train=train, validation=train, test=other),
    }.items():
        with pytest.raises(DataError, match=f"data.{name}, 'v': the label 'c' was never seen"):
            check_known(known, splits, lambda one: [one.label])

"""Names, numbers and scores of classes, as they are said."""

import pytest
from torch import nn, tensor

from qkv.data.labels import Labels
from qkv.evaluation.classification import classification_report
from qkv.tasks.classes import accuracy_line, classes_line, labels_of
from qkv.tasks.pretrained import Loaded


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


def test_a_class_without_examples_counts_none_and_of_many_the_first_are_named():
    assert classes_line(Labels(["a", "b"]), {0: 1_234}) == "2 classes: a (1,234), b (0)"
    line = classes_line(Labels([f"c{i}" for i in range(23)]), {i: i for i in range(23)})
    assert line.startswith("23 classes: c0 (0), c1 (1), ")
    assert line.endswith(", c19 (19) and 3 more")


def test_an_accuracy_says_of_how_many():
    chances = tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    line = accuracy_line(classification_report([0, 1, 1], chances, ["a", "b"]), unit="images")
    assert line.startswith("accuracy 66.67% of 3 images (95 %: 20.77% to 93.85%), macro-F1 66.67%")

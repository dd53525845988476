"""Data sets of the Hub, from a stand-in for the network: names, classes, and what goes wrong."""

import pytest

from qkv.data.rows import Row
from qkv.data.tables import read_table
from qkv.errors import DataError

datasets = pytest.importorskip("datasets")
COLUMNS = {"text": "sentence", "label": "label"}


@pytest.fixture
def hub(monkeypatch):
    """Put a table where the Hub would be; what it is asked for is noted."""
    asked = []

    def stand_in(labels):
        classes = datasets.ClassLabel(names=["negative", "positive"])
        features = {"idx": datasets.Value("int64"), "sentence": datasets.Value("string")}
        rows = {"idx": [5, 7], "sentence": ["good", "bad"], "label": labels}
        table = datasets.Dataset.from_dict(
            rows, features=datasets.Features({**features, "label": classes})
        )

        def load(name, config=None, *, split):
            asked.append((name, config, split))
            return table

        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return stand_in


def test_classes_get_their_names(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub([1, 0])
    assert read_table("owner/name", COLUMNS) == [
        Row(1, {"text": "good", "label": "positive"}),
        Row(2, {"text": "bad", "label": "negative"}),
    ]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("owner/name-2.0", ("owner/name-2.0", None, "train")),
        ("owner/name[validation]", ("owner/name", None, "validation")),
        ("owner/name:part", ("owner/name", "part", "train")),
        ("owner/name:part[test]", ("owner/name", "part", "test")),
    ],
)
def test_a_name_says_what_to_load(hub, monkeypatch, tmp_path, path, wanted):
    monkeypatch.chdir(tmp_path)
    asked = hub([1, 0])
    read_table(path, COLUMNS)
    assert asked == [wanted]


@pytest.mark.parametrize(
    "path", ["name", "data.csv", "folder/data.jsonl.gz", "a/b/c", "/owner/name"]
)
def test_a_path_is_not_looked_for_on_the_hub(hub, monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    asked = hub([1, 0])
    with pytest.raises(DataError, match="cannot read"):
        read_table(path, COLUMNS)
    assert asked == []


def test_hidden_labels_are_not_the_last_class(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub([1, -1])
    with pytest.raises(
        DataError, match=r"owner/name, split test, row 2: the label is empty .*hidd"
    ):
        read_table("owner/name[test]", COLUMNS)


def test_columns_that_are_not_there_are_answered_with_those_that_are(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub([1, 0])
    message = r"split train has no column 'text'; its columns are 'idx', 'sentence', 'label'"
    with pytest.raises(DataError, match=message):
        read_table("owner/name", {"text": "text"})


@pytest.mark.parametrize("error", [ConnectionError("no network"), ValueError("Unknown split")])
def test_what_cannot_be_had_is_a_data_error(monkeypatch, tmp_path, error):
    def load(*_, **__):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=rf"'owner/name' is not a file, .*'train' .*: {error}"):
        read_table("owner/name", COLUMNS)

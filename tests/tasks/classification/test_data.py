"""The texts of a recipe: which are learned from, which are held out."""

from collections import Counter
from pathlib import Path

import pytest
from tests.tasks.small import sentences, write_table

import qkv.tasks.classification.data as module
from qkv.data.labels import Labels, TextExample
from qkv.errors import ConfigError, DataError
from qkv.tasks.classification.data import Texts, read_texts

ROWS = sentences(40)


@pytest.fixture
def table(tmp_path):
    return str(write_table(tmp_path / "my.csv", ROWS))


def test_a_table_alone_gives_a_share_of_each_class_for_validation(table):
    parts = Texts(train=table, validation_share=0.2).parts()
    assert parts.labels.names == ("bad", "good")
    assert Counter(one.label for one in parts.validation) == {"good": 4, "bad": 4}
    assert sorted([*parts.train, *parts.validation]) == sorted(ROWS)
    assert parts.test == []
    assert Texts(train=table, validation_share=0.2).parts()[1:] == parts[1:]
    assert Texts(train=table, validation_share=0.2, seed=1).parts()[1:] != parts[1:]


def test_tables_for_each_part(table, tmp_path):
    others = [write_table(tmp_path / f"{i}.csv", sentences(60)[40 + i :]) for i in (0, 7)]
    texts = Texts(train=table, validation=str(others[0]), test=str(others[1]))
    _, train, validation, test = texts.parts()
    assert [len(part) for part in (train, validation, test)] == [40, 20, 13]


def test_columns_by_name(tmp_path):
    rows = [(label, i, text) for i, (text, label) in enumerate(ROWS)]
    table = str(write_table(tmp_path / "my.csv", rows, ("stars", "n", "review")))
    parts = Texts(train=table, text="review", label="stars").parts()
    assert sorted([*parts.train, *parts.validation]) == sorted(ROWS)
    with pytest.raises(DataError, match="no column 'text'; its columns are 'stars', 'n', 'review'"):
        Texts(train=table).parts()


def test_the_reviews_have_their_own_parts():
    parts = Texts().parts()
    assert parts.labels.names == ("negative", "positive")
    assert parts.train == read_texts("reviews:train", "-")
    assert parts.validation == read_texts("reviews", "validation")
    assert parts.test == read_texts("reviews", "test")
    alone = Texts(train="reviews:test").parts()  # a part is a table as any other
    assert len(alone.train) + len(alone.validation) == len(parts.test)
    assert alone.test == []
    other = Texts(validation="reviews:test", test="reviews:validation").parts()
    assert (other.validation, other.test) == (parts.test, parts.validation)


@pytest.fixture
def sets(monkeypatch):
    """Named sets with few texts: one without a test part, one without one for validation."""
    parts = {"sst2": ("train", "validation"), "trec": ("train", "test")}
    asked = []

    def some(task, name, part, data_dir):
        assert task == "classify"
        if part not in parts[name]:
            raise DataError(f"no part {part}")
        asked.append((name, part, data_dir))
        return [TextExample(f"{name} {part} {text}", label) for text, label in ROWS]

    monkeypatch.setattr(module, "load_set", some)
    return asked


def test_a_published_part_that_tests_is_not_chosen_by(sets):
    """Of SST-2 sentences the dev part is the test: another part is held out to choose by."""
    parts = Texts(train="sst2", test="sst2:validation", data_dir=Path("there")).parts()
    assert all(one.text.startswith("sst2 validation") for one in parts.test)
    assert all(one.text.startswith("sst2 train") for one in parts.validation)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (36, 4, 40)
    assert set(sets) == {("sst2", part, Path("there")) for part in ("train", "validation")}
    chosen = Texts(train="sst2").parts()
    assert all(one.text.startswith("sst2 validation") for one in chosen.validation)
    assert chosen.test == []


def test_a_set_without_a_part_for_validation(sets):
    parts = Texts(train="trec").parts()
    assert all(one.text.startswith("trec train") for one in parts.validation)
    assert all(one.text.startswith("trec test") for one in parts.test)
    crossed = Texts(train="trec", test="sst2:train").parts()
    assert all(one.text.startswith("sst2 train") for one in crossed.test)


def test_a_name_means_the_part_that_is_wanted(sets):
    Texts(train="trec", validation="sst2", test="trec").parts()
    assert [part for _, part, _ in sets] == ["train", "test", "validation"]
    with pytest.raises(DataError, match="no part test"):
        Texts(train="trec", test="sst2").parts()


def test_a_file_with_the_name_of_a_set_comes_first_a_folder_does_not(tmp_path, monkeypatch, sets):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sst2").mkdir()
    assert read_texts("sst2", "train")[0].text.startswith("sst2 train")
    (tmp_path / "trec").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="trec does not say how it holds a table"):
        read_texts("trec", "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "a.csv", "test": "a.csv"}, r"data names a\.csv twice"),
        ({"train": "a.csv", "validation": "a.csv"}, r"data names a\.csv twice"),
        ({"validation": "b.csv", "test": "b.csv"}, r"data names b\.csv twice"),
        ({"train": "reviews", "test": "reviews:train"}, r"data names reviews:train twice"),
        ({"limit": 0}, r"data\.limit = 0; expected at least 1 of the texts, or null"),
        ({"validation_share": 1.0}, r"data\.validation_share = 1\.0; expected between 0 and 1"),
        ({"validation_share": 0.0}, r"data\.validation_share = 0\.0; expected between 0 and 1"),
    ],
)
def test_what_is_refused_before_a_text_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        Texts(**options)


def test_a_limit_is_drawn_from_the_texts_to_learn_from(table):
    whole = Texts(train=table).parts()
    parts = Texts(train=table, limit=11).parts()
    assert len(parts.train) == 11
    assert parts.validation == whole.validation
    places = [whole.train.index(one) for one in parts.train]
    assert places == sorted(places)
    assert places != list(range(11))
    assert parts.train == Texts(train=table, limit=11).parts().train
    assert Texts(train=table, limit=99).parts()[1:] == whole[1:]


def test_a_limit_that_leaves_a_class_out(table):
    with pytest.raises(DataError, match=r"data.limit = 1 leaves no text of (good|bad); expected"):
        Texts(train=table, limit=1).parts()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has only a header; expected at least one row"),
        ([("a", "x"), ("b", "x")], "1 classes: 'x'; expected two or more"),
        ([("a", "x"), ("b", "x"), ("c", "y")], "1 of 2 classes have a single text: 'y'; expected"),
        ([("a", "x"), (" ", "y")], r"line 3: the text is empty \(' '\); expected a text"),
        ([("a", "x"), ("b", "")], r"line 3: the label is empty"),
    ],
)
def test_tables_that_nothing_can_be_learned_from(tmp_path, rows, message):
    table = str(write_table(tmp_path / "my.csv", rows))
    with pytest.raises(DataError, match=message):
        Texts(train=table).parts()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_training_did_not_have(table, tmp_path, part):
    other = write_table(tmp_path / "other.csv", [("a", "good"), ("b", "so-so")])
    with pytest.raises(
        DataError,
        match=r"other.csv, line 3: the label 'so-so' was never seen in training; known are 'bad', ",
    ):
        Texts(train=table, **{part: str(other)}).parts()
    with pytest.raises(DataError, match=r"reviews:test, text 1: the label '.*' was never seen"):
        Texts(train=table, **{part: "reviews:test"}).parts()


def test_a_class_with_one_text_may_have_a_table_for_validation(tmp_path):
    table = write_table(tmp_path / "my.csv", [("a", "x"), ("b", "x"), ("c", "y")])
    other = write_table(tmp_path / "other.csv", [("d", "x")])
    parts = Texts(train=str(table), validation=str(other)).parts()
    assert (len(parts.train), len(parts.validation)) == (3, 1)


def test_the_checksum_tells_texts_labels_and_parts_apart(table, tmp_path):
    one = Texts(train=table).parts()
    assert one.checksum == Texts(train=table).parts().checksum
    changes = [
        one._replace(labels=Labels(["good", "bad"])),
        one._replace(train=[*one.train[1:], one.train[0]]),
        one._replace(train=[one.train[0]._replace(label="good"), *one.train[1:]]),
        one._replace(test=one.validation, validation=one.test),
    ]
    assert len({one.checksum, *(other.checksum for other in changes)}) == 5

"""The texts of a recipe: what is trained on, what is held out, and what is refused."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from tests.tasks.small import sentences, write_base, write_table

from qkv.data.labels import TextExample
from qkv.errors import ConfigError, DataError
from qkv.tasks import splits as module
from qkv.tasks.classification import TASK, ClassificationRecipe
from qkv.tasks.splits import DataConfig, Source, checksum, read_splits

ROWS = sentences(40)


@pytest.fixture
def table(tmp_path):
    return str(write_table(tmp_path / "my.csv", ROWS))


def read(train, **options):
    return read_splits(TASK, DataConfig(train=(train,), **options))


def test_a_table_alone_gives_a_share_of_each_class_for_validation(table):
    train, validation, test = first = [*read(table, validation_fraction=0.2)]
    assert Counter(one.label for one in validation) == {"good": 4, "bad": 4}
    assert sorted([*train, *validation]) == sorted(ROWS)
    assert len(test) == 0
    assert [*read(table, validation_fraction=0.2)] == first
    assert [*read(table, validation_fraction=0.2, seed=1)] != first


def test_tables_for_each_split(table, tmp_path):
    others = [write_table(tmp_path / f"{i}.csv", sentences(60)[40 + i :]) for i in (0, 7)]
    splits = read(table, validation=str(others[0]), test=str(others[1]))
    assert [len(split) for split in splits] == [40, 20, 13]


def test_columns_by_name(tmp_path):
    rows = [(label, i, text) for i, (text, label) in enumerate(ROWS)]
    table = str(write_table(tmp_path / "my.csv", rows, ("stars", "n", "review")))
    train, validation, _ = read(table, columns={"text": "review", "label": "stars"})
    assert sorted([*train, *validation]) == sorted(ROWS)
    with pytest.raises(DataError, match="no column 'text'; its columns are 'stars', 'n', 'review'"):
        read(table)


def test_the_reviews_have_their_own_splits():
    source, splits = Source(TASK, {}), read("reviews")
    assert {one.label for one in splits.train} == {"negative", "positive"}
    assert splits.train == source.read("reviews:train", "-")
    assert splits.validation == source.read("reviews", "validation")
    assert splits.test == source.read("reviews", "test")
    alone = read("reviews:test")  # a split is a table as any other
    assert len(alone.train) + len(alone.validation) == len(splits.test)
    assert len(alone.test) == 0
    other = read("reviews", validation="reviews:test", test="reviews:validation")
    assert (other.validation, other.test) == (splits.test, splits.validation)


@pytest.fixture
def sets(monkeypatch):
    """Named sets with few texts: one without a test split, one without one for validation."""
    read_from = []

    def named(name, splits):
        def read(split, data_dir, columns):
            read_from.append((name, split, data_dir))
            return [TextExample(f"{name} {split} {text}", label) for text, label in ROWS]

        return module.NamedSet(name=name, task="classify", splits=splits, read=read, summary="")

    sets = {
        "sst2": named("sst2", ("train", "validation")),
        "trec": named("trec", ("train", "test")),
    }
    monkeypatch.setattr(module, "named_sets", lambda task: sets)
    return read_from


def test_a_published_split_that_tests_is_not_chosen_by(sets):
    """The published validation split of SST-2 tests, so another one is held out to choose by."""
    splits = read("sst2", test="sst2:validation", data_dir=Path("there"))
    assert all(one.text.startswith("sst2 validation") for one in splits.test)
    assert all(one.text.startswith("sst2 train") for one in splits.validation)
    assert [len(split) for split in splits] == [36, 4, 40]
    assert set(sets) == {("sst2", split, Path("there")) for split in ("train", "validation")}
    chosen = read("sst2")
    assert all(one.text.startswith("sst2 validation") for one in chosen.validation)
    assert len(chosen.test) == 0


def test_a_set_without_a_split_for_validation(sets):
    splits = read("trec")
    assert all(one.text.startswith("trec train") for one in splits.validation)
    assert all(one.text.startswith("trec test") for one in splits.test)
    crossed = read("trec", test="sst2:train")
    assert all(one.text.startswith("sst2 train") for one in crossed.test)


def test_a_name_means_the_split_that_is_wanted(sets):
    read("trec", validation="sst2", test="trec")
    assert sorted(split for _, split, _ in sets) == ["test", "train", "validation"]
    with pytest.raises(DataError, match="no split 'test' of sst2; expected train, validation"):
        read("trec", test="sst2")


def test_a_file_with_the_name_of_a_set_comes_first_a_folder_does_not(tmp_path, monkeypatch, sets):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sst2").mkdir()
    source = Source(TASK, {})
    assert source.read("sst2", "train")[0].text.startswith("sst2 train")
    (tmp_path / "trec").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="trec"):
        source.read("trec", "train")
    assert len(sets) == 1


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ("a.csv", {"test": "a.csv"}, r"data names a\.csv twice"),
        ("a.csv", {"validation": "a.csv"}, r"data names a\.csv twice"),
        ("reviews", {"validation": "b.csv", "test": "b.csv"}, r"b\.csv twice"),
        ("reviews", {"test": "reviews:train"}, r"data names reviews:train twice"),
        ("reviews", {"limit": 0}, r"data\.limit = 0; expected at least 1 example, or null"),
        (
            "reviews",
            {"validation_fraction": 1.0},
            r"data\.validation_fraction = 1\.0; expected between 0 and 1",
        ),
        (
            "reviews",
            {"validation_fraction": 0.0},
            r"data\.validation_fraction = 0\.0; expected between 0 and 1",
        ),
    ],
)
def test_what_is_refused_before_a_text_is_read(train, options, message):
    with pytest.raises(ConfigError, match=message):
        read(train, **options)


def test_a_limit_is_drawn_from_the_training_texts(table):
    whole, splits = read(table), read(table, limit=11)
    assert len(splits.train) == 11
    assert splits.validation == whole.validation
    indices = [whole.train.index(one) for one in splits.train]
    assert indices == sorted(indices)
    assert indices != list(range(11))
    assert splits.train == read(table, limit=11).train
    assert [*read(table, limit=99)] == [*whole]


def test_a_limit_that_leaves_a_class_out(table):
    with pytest.raises(
        DataError, match=r"data.limit = 1 leaves no example of (good|bad); expected"
    ):
        read(table, limit=1)


@pytest.fixture
def build(tmp_path):
    """Build the classifier of a recipe, which is all that comes before training."""

    def run(train, **options):
        recipe = ClassificationRecipe(
            output=tmp_path / "made",
            base=str(write_base(tmp_path / "base")),
            data=DataConfig(train=(train,), **options),
            max_length=13,
        )
        return recipe.build(recipe.read(TASK))

    return run


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has only a header; expected at least one row"),
        ([("a", "x"), ("b", "x")], "1 classes: 'x'; expected two or more"),
        ([("a", "x"), ("b", "x"), ("c", "y")], "1 of 2 classes have a single text: 'y'; expected"),
        ([("a", "x"), (" ", "y")], r"line 3[:,] the text is empty \(' '\)"),
        ([("a", "x"), ("b", "")], r"line 3[:,] the label is empty"),
    ],
)
def test_tables_that_nothing_can_be_learned_from(tmp_path, build, rows, message):
    with pytest.raises(DataError, match=message):
        build(str(write_table(tmp_path / "my.csv", rows)))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_training_lacks_is_refused_before_training(table, tmp_path, build, split):
    other = write_table(tmp_path / "other.csv", [("a", "good"), ("b", "so-so")])
    message = f"data.{split}, 'b': the label 'so-so' was never seen in training; known are 'bad', "
    with pytest.raises(DataError, match=message):
        build(table, **{split: str(other)})
    with pytest.raises(DataError, match=rf"data\.{split}, .*: the label '.*' was never seen"):
        build(table, **{split: "reviews:test"})


def test_a_class_with_one_text_may_have_a_table_for_validation(tmp_path):
    table = write_table(tmp_path / "my.csv", [("a", "x"), ("b", "x"), ("c", "y")])
    other = write_table(tmp_path / "other.csv", [("d", "x")])
    splits = read(str(table), validation=str(other))
    assert [len(split) for split in splits] == [3, 1, 0]


def test_the_checksum_tells_texts_labels_and_splits_apart(table, tmp_path):
    recipe = ClassificationRecipe(output=tmp_path / "made")

    def checked(splits):
        return recipe.checksum(TASK, None, splits)

    one = read(table)
    assert checked(one) == checked(read(table)) == checksum([*one])
    train = [*one.train]
    changes = [
        dataclasses.replace(one, train=[*train[1:], train[0]]),
        dataclasses.replace(one, train=[train[0]._replace(label="good"), *train[1:]]),
        dataclasses.replace(one, train=[train[0]._replace(text="other"), *train[1:]]),
        dataclasses.replace(one, test=one.validation, validation=one.test),
    ]
    assert len({checked(one), *map(checked, changes)}) == 5

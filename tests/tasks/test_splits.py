"""Where the examples of a recipe come from, and how they are split."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qkv.data.sets import NamedSet
from qkv.errors import ConfigError, DataError
from qkv.tasks import splits
from qkv.tasks.classification import TASK
from qkv.tasks.images import TASK as IMAGES
from qkv.tasks.splits import DataConfig, Source, checksum, evenly, name_columns, read_splits

BIRDS = [TASK.example(f"{bird} {i}", bird) for i in range(23) for bird in ("wren", "kite")]
SIZES = {"train": 38, "validation": 6, "test": 4}
SETS = {
    "birds": NamedSet(
        name="birds",
        task="classify",
        splits=("train", "validation", "test"),
        read=lambda split, folder, columns: BIRDS[
            : {"train": 38, "validation": 6, "test": 4}[split]
        ],
        summary="birds",
    ),
    "fish": NamedSet(
        name="fish",
        task="classify",
        splits=("train", "deep"),
        read=lambda split, folder, columns: BIRDS[:10],
        summary="fish",
    ),
}


@pytest.fixture(autouse=True)
def named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(splits, "named_sets", lambda task: SETS)


def write(name, rows, header="text,label"):
    Path(name).write_text("\n".join([header, *rows]) + "\n")
    return name


def test_sets_and_their_splits():
    source = Source(TASK, {})
    assert source.full_name("birds", "test") == "birds:test"
    assert source.full_name("fish:deep", "test") == "fish:deep"
    assert source.full_name("C:mine.csv", "test") == "C:mine.csv"
    assert source.own_split("birds", "test") == "birds:test"
    for name in ("fish", "birds:train", "mine.csv", ""):
        assert source.own_split(name, "test") is None
    assert len(source.read("birds", "test")) == 4
    assert len(source.read("birds:train", "test")) == 38
    with pytest.raises(DataError, match="no split 'test' of fish; expected train, deep"):
        source.read("fish", "test")


def test_a_file_or_folder_comes_before_a_set_of_its_name():
    Path("birds").mkdir()
    assert Source(TASK, {}).full_name("birds", "train") == "birds:train"
    assert Source(IMAGES, {}).full_name("birds", "train") == "birds"
    write("fish", [])
    assert Source(TASK, {}).full_name("fish", "train") == "fish"
    assert Source(IMAGES, {}).full_name("fish", "train") == "fish:train"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": ()}, "data.train is empty; expected one source of examples or several"),
        ({"limit": 0}, "data.limit = 0; expected at least 1 example, or null"),
        ({"validation_limit": 0}, "data.validation_limit = 0; expected at least 1 example"),
        ({"validation_fraction": 1.0}, "data.validation_fraction = 1.0; expected between 0 and 1"),
        ({"on_bad_rows": "mend"}, "data.on_bad_rows = 'mend'; expected fail or skip"),
        ({"validation": "birds:train"}, "data names birds:train twice; expected another source"),
        ({"train": "a.csv", "test": "a.csv"}, "data names a.csv twice"),
        ({"validation": "fish:deep", "test": "fish:deep"}, "data names fish:deep twice"),
        ({"train": ("fish", "birds", "fish:train")}, "data names fish:train twice"),
        ({"columns": {"tezt": "x"}}, "columns.tezt = 'x': there is no such role; expected some"),
    ],
)
def test_what_a_recipe_must_not_have(fields, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        read_splits(TASK, DataConfig(**{"train": "birds", **fields}))


def test_a_set_has_its_own_splits_or_gives_some_of_its_training_examples():
    own = read_splits(TASK, DataConfig(train="birds"))
    assert [len(split) for split in own] == [38, 6, 4]
    held = read_splits(TASK, DataConfig(train="fish", validation_fraction=0.2))
    assert [len(split) for split in held] == [8, 2, 0]
    assert {one.label for one in held.validation} == {"wren", "kite"}
    several = read_splits(TASK, DataConfig(train=("fish", "birds:test"), test="birds:validation"))
    assert len(several.train) + len(several.validation) == 14
    # A published validation split that serves as the test split is not chosen by as well.
    shared = read_splits(TASK, DataConfig(train="birds", test="birds:validation"))
    assert len(shared.test) == 6
    assert not set(shared.train) & set(shared.validation)
    assert len(shared.train) + len(shared.validation) == 38


def test_equal_texts_stay_in_one_split():
    rows = [f"text {i % 7},{'ab'[i % 7 % 2]}" for i in range(70)]
    both = read_splits(TASK, DataConfig(train=write("mine.csv", rows), validation_fraction=0.4))
    assert not {one.text for one in both.train} & {one.text for one in both.validation}
    groups = replace(TASK, labels=None)
    both = read_splits(groups, DataConfig(train="mine.csv", validation_fraction=0.4))
    assert not {one.text for one in both.train} & {one.text for one in both.validation}


def test_examples_are_drawn_and_stay_in_order():
    config = DataConfig(train="birds", limit=13, seed=5)
    few = read_splits(TASK, config).train
    assert len(few) == 13
    assert few == [one for one in BIRDS if one in few]
    assert few == read_splits(TASK, config).train
    assert few != read_splits(TASK, replace(config, seed=6)).train
    with pytest.raises(DataError, match=r"data\.limit = 1 leaves no example of (kite|wren)"):
        read_splits(TASK, replace(config, limit=1))


def test_validation_examples_are_evenly_spaced():
    assert list(evenly(range(97), None)) == list(evenly(range(97), 97)) == list(range(97))
    assert evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert len(read_splits(TASK, DataConfig(train="birds", validation_limit=3)).validation) == 3


def test_columns_have_roles():
    assert name_columns({}, TASK.columns) == {"text": "text", "label": "label"}
    named = name_columns({"second": "answer", "text": "question"}, TASK.columns)
    assert named == {"text": "question", "label": "label", "second": "answer"}
    write("pairs.csv", ["q,x,a", "r,y,b", "s,x,c", "t,y,d"], "question,label,answer")
    found = read_splits(TASK, DataConfig(train="pairs.csv", columns={**named}))
    assert found.columns == named
    assert {one.second for one in (*found.train, *found.validation)} == set("abcd")


def test_malformed_rows_stop_a_run_or_are_left_out_and_reported():
    rows = ["fine,good", ",bad", "dull,bad", "two,many,fields", "sweet,good", "poor,bad"]
    write("mine.csv", rows)
    with pytest.raises(DataError) as raised:
        read_splits(TASK, DataConfig(train="mine.csv"))
    for words in ("line 3", "line 5"):
        assert words in str(raised.value)
    kept = read_splits(TASK, DataConfig(train="mine.csv", on_bad_rows="skip"))
    assert len(kept.train) + len(kept.validation) == 4
    assert len(kept.remarks) == 1
    assert "line 5" in kept.remarks[0]


def test_the_checksum_is_that_of_the_content():
    content = [["a", "b"], [], ("c",)]
    assert checksum(content) == checksum([["a", "b"], [], ["c"]])  # as it was read back
    assert checksum(content) != checksum([["a"], ["b"], ["c"]])
    assert re.fullmatch("[0-9a-f]{16}", checksum(content))

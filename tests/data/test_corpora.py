"""Named sets of plain text: published sizes and parts."""

import gzip

import pytest

from qkv.data.sets import load_set, named_sets
from qkv.errors import DataError


def test_shakespeare_is_split_as_nanogpt_does(shared_data):
    (train,) = load_set("generate", "tinyshakespeare", "train", shared_data)
    (validation,) = load_set("generate", "tinyshakespeare", "validation", shared_data)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert len({*train, *validation}) == 65
    assert train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")


def test_names_come_once_and_in_one_part(shared_data):
    parts = {
        split: load_set("generate", "names", split, shared_data)
        for split in named_sets("generate")["names"].splits
    }
    assert {split: len(part) for split, part in parts.items()} == NAMES
    names = [name for part in parts.values() for name in part]
    assert len(names) == len({*names}) == 29_494
    assert {*"".join(names)} == {*"abcdefghijklmnopqrstuvwxyz"}


NAMES = {"train": 23_736, "validation": 2_872, "test": 2_886}


def test_what_is_not_there_is_answered_with_what_is(tmp_path):
    with pytest.raises(
        DataError,
        match="no data set 'pile' to generate; expected docstrings, tiny",
    ):
        load_set("generate", "pile", "train")
    with pytest.raises(DataError, match="no split 'test' of tinyshakespeare; expected train, val"):
        load_set("generate", "tinyshakespeare", "test")
    (tmp_path / "tinyshakespeare").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*tinyshakespeare.input\.txt\.gz"):
        load_set("generate", "tinyshakespeare", "validation", tmp_path)
    (tmp_path / "tinyshakespeare" / "input.txt.gz").write_bytes(gzip.compress(b" \n"))
    with pytest.raises(DataError, match=r"input\.txt\.gz is empty; expected text"):
        load_set("generate", "tinyshakespeare", "train", tmp_path)

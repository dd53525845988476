"""Named sets of plain text: published sizes and parts."""

import gzip

import pytest

from qkv.data.corpora import SETS, text_set
from qkv.errors import DataError


def test_shakespeare_is_split_as_nanogpt_does(shared_data):
    (train,) = text_set("tinyshakespeare", "train", shared_data)
    (validation,) = text_set("tinyshakespeare", "validation", shared_data)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert len({*train, *validation}) == 65
    assert train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")


def test_names_come_once_and_in_one_part(shared_data):
    parts = {split: text_set("names", split, shared_data) for split in SETS["names"]}
    assert {split: len(part) for split, part in parts.items()} == NAMES
    names = [name for part in parts.values() for name in part]
    assert len(names) == len({*names}) == 29_494
    assert {*"".join(names)} == {*"abcdefghijklmnopqrstuvwxyz"}


NAMES = {"train": 23_736, "validation": 2_872, "test": 2_886}


def test_what_is_not_there_is_answered_with_what_is(tmp_path):
    with pytest.raises(DataError, match="no data set 'pile': expected tinyshakespeare, names"):
        text_set("pile", "train")
    with pytest.raises(DataError, match="no part 'test' of tinyshakespeare: expected train, val"):
        text_set("tinyshakespeare", "test")
    (tmp_path / "tinyshakespeare").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*tinyshakespeare.input\.txt\.gz"):
        text_set("tinyshakespeare", "validation", tmp_path)
    (tmp_path / "tinyshakespeare" / "input.txt.gz").write_bytes(gzip.compress(b" \n"))
    with pytest.raises(DataError, match=r"input\.txt\.gz is empty: expected a text"):
        text_set("tinyshakespeare", "train", tmp_path)

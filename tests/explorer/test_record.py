"""The file: what is written is read back, and anything else is refused in one line."""

import copy
import json
import random

import numpy as np
import pytest
from tests.checkpoints.folders import put_together, take_apart
from tests.checkpoints.test_hostile import WRONG, outcome
from tests.explorer.conftest import looked_at

from qkv.errors import DataError, QKVError, StorageError
from qkv.explorer.record import FIELD, Record


def paths_in(value, path=()):
    """All places in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(child, (*path, key))


def put(value, path, new):
    *before, last = path
    for key in before:
        value = value[key]
    value[last] = new


def test_a_record_is_read_back_as_it_was(looked, tmp_path):
    looked.record.save(tmp_path / "x.record")
    read = Record.load(tmp_path / "x.record")
    assert {**read.header, "format": 0, "version": 0} == {
        **json.loads(json.dumps(looked.record.header)),
        "format": 0,
        "version": 0,
    }
    assert set(read.tensors) == set(looked.record.tensors)
    for name, tensor in read.tensors.items():
        assert tensor.dtype == looked.record.tensors[name].dtype
        assert np.array_equal(tensor, looked.record.tensors[name])


def test_the_first_version_is_1_and_others_are_refused(tmp_path):
    path = tmp_path / "x"
    looked_at("generate").record.save(path)
    header, data = take_apart(path)
    record = json.loads(header["__metadata__"][FIELD])
    assert (record["format"], record["version"]) == ("qkv-record", 1)
    for change in ({"version": 2}, {"version": True}, {"version": None}, {"format": "x"}):
        raw = {**header, "__metadata__": {FIELD: json.dumps(record | change)}}
        put_together(path, raw, data)
        with pytest.raises(DataError, match="another version of qkv"):
            Record.load(path)
    put_together(path, {**header, "__metadata__": {FIELD: json.dumps(record | {"new": 1})}}, data)
    Record.load(path)  # unknown fields are ignored


@pytest.mark.parametrize("task", ["translate", "recognize"])
def test_mutants_of_the_header(task, tmp_path):
    choose, path = random.Random(task), tmp_path / "x"
    looked_at(task).record.save(path)
    header, data = take_apart(path)
    record = json.loads(header["__metadata__"][FIELD])
    places = [one for one in paths_in(record) if one]
    outcomes = set()
    for _ in range(150):
        raw = copy.deepcopy(record)
        put(raw, choose.choice(places), choose.choice(WRONG))
        put_together(path, {**header, "__metadata__": {FIELD: json.dumps(raw)}}, data)
        outcomes.add(outcome(lambda: Record.load(path)))
    assert outcomes == {"loads", "DataError"}


def test_mutants_of_the_files_own_header(tmp_path):
    choose, path = random.Random(0), tmp_path / "x"
    looked_at("generate").record.save(path)
    header, data = take_apart(path)
    for _ in range(80):
        raw = json.loads(json.dumps(header))
        name = choose.choice(sorted(header))
        if name != "__metadata__" and choose.random() < 0.7:
            raw[name][choose.choice(sorted(raw[name]))] = choose.choice(WRONG)
        elif choose.random() < 0.3:
            del raw[name]
        else:
            raw[name] = choose.choice(WRONG)
        put_together(path, raw, data)
        outcome(lambda: Record.load(path))


def test_damaged_bytes_are_refused_or_harmless(tmp_path):
    choose, whole = random.Random(0), looked_at("generate").record.encode()
    for _ in range(80):
        content = bytearray(whole)
        match choose.randrange(3):
            case 0:
                content = content[: choose.randrange(len(content))]
            case 1:
                content[choose.randrange(3_000)] = choose.randrange(256)
            case 2:
                content += bytes(choose.randrange(1, 9))
        mutant = bytes(content)
        outcome(lambda mutant=mutant: Record.decode(mutant))
    for content in (b"", b"\0" * 8, b"\xff" * 100, b"PK\3\4" * 30, b"x" * 9):
        with pytest.raises(DataError):
            Record.decode(content)


def test_numbers_that_are_not_finite_are_refused():
    record = looked_at("generate").record
    tensors = dict(record.tensors)
    tensors["output.logits"] = np.full_like(tensors["output.logits"], np.nan)
    with pytest.raises(DataError, match="not finite"):
        Record(record.header, tensors)


def test_places_that_cannot_be_read_or_written(tmp_path):
    record = looked_at("generate").record
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        record.save(tmp_path / "file" / "x")
    for place in ("nothing", "", "file/x", "nul\0"):
        with pytest.raises(QKVError):
            Record.load(tmp_path / place)

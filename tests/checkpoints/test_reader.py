"""Files that are broken, missing or elsewhere: refused by name, and nothing half-loaded."""

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.folders import put_together, take_apart, write

from qkv.checkpoints.checkpoint import load_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.errors import DataError
from qkv.json_fields import read_json

NAME = "encoder.layer.2.output.dense.weight"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def file(folder):
    return folder / "model.safetensors"


@pytest.fixture
def sharded(tmp_path):
    write(tmp_path / "sharded", shard_bytes=7_000)
    return tmp_path / "sharded"


def refused(path, message):
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(path)
    return str(caught.value)


def test_weights_are_read_by_name(file):
    header, data = take_apart(file)
    weights = open_weights(file.parent)
    assert len(weights) == len(header) - 1
    start, end = header[NAME]["data_offsets"]
    assert weights[NAME].numpy().tobytes() == data[start:end]
    assert weights.file(NAME) == file
    assert open_weights(file).keys() == weights.keys()


@pytest.mark.parametrize("keep", [0, 5, 8, 300])
def test_a_file_cut_short_in_its_header(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    message = refused(
        file.parent, "announces a header of .* is truncated, or not a safetensors file"
    )
    assert str(file) in message


def test_a_file_cut_short_in_its_data_names_the_tensor(file):
    header, _ = take_apart(file)
    last = max((one for one in header if one != "__metadata__"), key=lambda n: end(header[n]))
    file.write_bytes(file.read_bytes()[:-1])
    message = refused(file.parent, "should end at byte .* truncated")
    assert f"{file}: {last} " in message


def end(entry):
    return entry["data_offsets"][1]


@pytest.mark.parametrize("length", [1, 2**40, 2**64 - 1])
def test_a_header_that_lies_about_its_length(file, length):
    header, data = take_apart(file)
    put_together(file, header, data, length)
    assert str(file) in refused(file.parent, "announces a header|its header is not JSON")


def lie(header, change):
    entry = header[NAME]
    start, stop = entry["data_offsets"]
    header[NAME] = {
        "shape": {**entry, "shape": [22, 30]},
        "negative shape": {**entry, "shape": [-22, -29]},
        "fraction": {**entry, "shape": [22.0, 29]},
        "dtype": {**entry, "dtype": "F64"},
        "unknown dtype": {**entry, "dtype": "F3"},
        "no offsets": {"dtype": "F32", "shape": [22, 29]},
        "one offset": {**entry, "data_offsets": [start]},
        "not an entry": 7,
        "longer": {**entry, "data_offsets": [start, stop + 4]},
        "backwards": {**entry, "data_offsets": [stop, start]},
    }[change]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shape", r"shape \[22, 30\], which are 2640 bytes.*the header is wrong"),
        ("negative shape", "the header is wrong"),
        ("fraction", "the header is wrong"),
        ("dtype", "dtype F64 and shape .*the header is wrong"),
        ("unknown dtype", "expected a known dtype"),
        ("no offsets", "expected a known dtype, a shape and two offsets"),
        ("one offset", "expected a known dtype, a shape and two offsets"),
        ("not an entry", "is described by 7; expected a known dtype"),
        ("longer", "the header is wrong"),
        ("backwards", "the header is wrong"),
    ],
)
def test_a_header_that_lies_about_a_tensor_names_it(file, change, message):
    header, data = take_apart(file)
    lie(header, change)
    put_together(file, header, data)
    assert f"{file}: {NAME} " in refused(file.parent, message)


def test_tensors_that_overlap_or_leave_a_hole(file):
    header, data = take_apart(file)
    other = "encoder.layer.1.output.dense.weight"
    header[NAME]["data_offsets"] = header[other]["data_offsets"]
    put_together(file, header, data)
    assert str(file) in refused(file.parent, "should begin at byte .* but begins at")


def test_bytes_after_the_last_tensor(file):
    file.write_bytes(file.read_bytes() + b"more")
    refused(file.parent, "4 bytes follow the last tensor; expected none")


@pytest.mark.parametrize("header", [b"[1, 2]  ", b'{"a": ', b"\xff\xfe\x00\x00\x00\x00\x00\x00"])
def test_a_header_that_is_no_object(file, header):
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(file.parent, "its header is (not JSON|a JSON list)")


def test_a_tensor_that_is_missing(file):
    weights = dict(open_weights(file))
    tensors = {name: tensor.clone() for name, tensor in weights.items() if name != NAME}
    save_file(tensors, file)
    message = refused(file.parent, r"is missing \(for stack.blocks.2.feed_forward.down.weight\)")
    assert f"{NAME} in {file}" in message


def test_tensors_that_nothing_knows(file):
    tensors = {name: tensor.clone() for name, tensor in open_weights(file).items()}
    save_file(tensors | {"encoder.layer.3.output.dense.weight": torch.zeros(1)}, file)
    message = refused(file.parent, "no parameter of this model is called")
    assert f"encoder.layer.3.output.dense.weight in {file}" in message


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(29, 22), r"has shape \(29, 22\).*expected \(22, 29\)"),
        (torch.zeros(22, 29).long(), "has dtype torch.int64; expected floating point"),
        (torch.zeros(22, 29).bool(), "has dtype torch.bool; expected floating point"),
        (torch.zeros(22, 29).half(), "the dtypes torch.float16, torch.float32; choose one"),
    ],
    ids=["shape", "integer", "boolean", "mixed"],
)
def test_a_tensor_of_the_wrong_shape_or_dtype(file, tensor, message):
    tensors = {name: tensor.clone() for name, tensor in open_weights(file).items()}
    save_file(tensors | {NAME: tensor}, file)
    assert "mixed" in message or NAME in refused(file.parent, message) or "choose one" in message


def test_the_same_tensor_twice(file):
    tensors = {name: tensor.clone() for name, tensor in open_weights(file).items()}
    save_file(tensors | {f"bert.{NAME}": tensors[NAME].clone()}, file)
    refused(file.parent, f"{NAME} in .* duplicates bert.{NAME}")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder, monkeypatch):
    tensors = {name: tensor.clone() for name, tensor in open_weights(folder).items()}
    expected = load_checkpoint(folder).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    message = refused(folder, "has only pytorch_model.bin, .* a pickle can run any code")
    way = re.search(r'python -c "(.*)"', message)[1]
    monkeypatch.chdir(folder)
    exec(way)
    found = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_pickle_is_opened(folder):
    class Trap:
        def __reduce__(self):
            return exec, ("raise SystemExit('a pickle ran')",)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    refused(folder, "only pytorch_model.bin")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights: expected model.safetensors, or model.safetensors.index.json")


def test_no_config(tmp_path):
    refused(tmp_path, "config.json cannot be read")


@pytest.mark.parametrize("text", ["", "{", "NaN?", '{"a": 1} 2', "[" * 100_000, "\udcff"])
def test_a_config_that_is_not_json(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    refused(folder, r"config\.json(, line 1: not (JSON|UTF-8)| is not JSON .* nested too deeply)")


@pytest.mark.parametrize("text", ["[]", "7", '"bert"'])
def test_a_config_that_is_no_object(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json is a JSON (list|int|str); expected an object")


def change_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_shards_are_read(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    weights = open_weights(sharded)
    assert [shard.path for shard in weights.shards] == shards
    assert weights.index["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    load_checkpoint(sharded)


def test_a_shard_that_is_not_there(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    names = open_weights(sharded).shards[1].names
    shard.unlink()
    message = refused(sharded, f"index.json names {shard.name}, which is missing, for ")
    assert names[0] in message


def test_a_broken_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard}: " in refused(sharded, "truncated")


@pytest.mark.parametrize(
    "place",
    ["../../x.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "..\\x", "C:\\x", "C:x"],
)
def test_a_path_outside_the_folder(sharded, place):
    def change(index):
        index["weight_map"]["pooler.dense.bias"] = place

    change_index(sharded, change)
    assert repr(place) in refused(sharded, "never reads outside its folder")


def test_an_index_and_a_shard_that_disagree(sharded):
    change_index(sharded, lambda index: index["weight_map"].pop("pooler.dense.bias"))
    refused(sharded, "disagree on which tensors it has: pooler.dense.bias")


@pytest.mark.parametrize("weight_map", [None, [], {"a": 7}])
def test_an_index_without_a_map(sharded, weight_map):
    change_index(sharded, lambda index: index.update(weight_map=weight_map))
    refused(sharded, "has no weight_map from the names of tensors to files")


def test_an_empty_index(sharded):
    change_index(sharded, lambda index: index.update(weight_map={}))
    refused(sharded, "names no tensor")


def test_json_is_read_as_utf8(tmp_path):
    (tmp_path / "file.json").write_bytes('{"a": "Ä"}'.encode())
    assert read_json(tmp_path / "file.json") == {"a": "Ä"}

"""GGUF files loaded as optimized models: the blocks as they are, or one tensor at a time."""

import gguf
import pytest
import torch
from tests.checkpoints.gguf_files import ARCHITECTURES, TYPES, write

import qkv
from qkv.errors import ConfigError, DataError
from qkv.inference.modules import PackedEmbedding, PackedLinear
from qkv.inference.optimize import made_of
from qkv.inference.packed import PACKINGS
from qkv.inference.stored import packable, stored_tensors


def same(ours, theirs):
    ours, theirs = stored_tensors(ours), stored_tensors(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def expanded(model):
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear | PackedEmbedding)
    }


@pytest.mark.parametrize("dtype", PACKINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_what_optimize_makes_where_that_loses_nothing(tmp_path, architecture, dtype):
    write(tmp_path / "model.gguf", architecture, "Q4_1")
    ours = qkv.load(tmp_path / "model.gguf", dtype=dtype).model
    theirs = qkv.optimize(qkv.load(tmp_path / "model.gguf").model, dtype)
    assert made_of(ours).dtype == dtype
    assert not any(p.requires_grad for p in ours.parameters())
    same(ours, theirs)


@pytest.mark.parametrize("kind", TYPES)
def test_other_types_are_expanded_and_packed_one_at_a_time(tmp_path, kind):
    write(tmp_path / "model.gguf", "llama", kind)
    ours = qkv.load(tmp_path / "model.gguf", dtype="int8").model
    model = qkv.load(tmp_path / "model.gguf", dtype=torch.float32).model
    same(ours, qkv.optimize(model, "int8"))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_four_bits_are_taken_as_they_are(tmp_path, architecture, kind):
    write(tmp_path / "model.gguf", architecture, kind)
    fast = qkv.load(tmp_path / "model.gguf", dtype="int4").model
    model = qkv.load(tmp_path / "model.gguf").model
    tables = ("embedding", "head") if architecture == "gpt2" else ("embedding",)
    for name, weight in expanded(fast).items():
        if name not in tables:  # int8
            assert torch.equal(weight, model.get_submodule(name).weight), name


def test_a_table_of_eight_bits_is_taken_as_it_is(tmp_path):
    write(tmp_path / "model.gguf", "llama", "Q8_0")
    fast = qkv.load(tmp_path / "model.gguf", dtype="int4").model
    model = qkv.load(tmp_path / "model.gguf").model
    assert torch.equal(fast.embedding.weight, model.embedding.weight)
    assert fast.stack.blocks[0].feed_forward.up.packed.dtype == torch.uint8


def test_blocks_are_never_expanded(tmp_path, monkeypatch):
    write(tmp_path / "model.gguf", "qwen2", "Q4_1")
    used = []
    dequantize = gguf.quants.dequantize
    monkeypatch.setattr(
        gguf.quants, "dequantize", lambda data, kind: used.append(1) or dequantize(data, kind)
    )
    model = qkv.load(tmp_path / "model.gguf", dtype="int4").model
    assert len(used) == 1  # the embedding
    assert len(packable(made_of(model).outline)) > 10


def test_auto_measures_the_shapes(tmp_path, caplog):
    write(tmp_path / "model.gguf", "llama", "Q4_1")
    model = qkv.load(tmp_path / "model.gguf", dtype="auto").model
    assert f"dtype auto: {made_of(model).dtype} (products of 1 rows" in caplog.text


def test_a_new_head_is_packed_too(tmp_path):
    write(tmp_path / "model.gguf", "llama", "Q4_1")
    fast = qkv.load(tmp_path / "model.gguf", dtype="int4", new="head").model
    assert fast.head.weight.isfinite().all()
    assert fast.head.weight.std() > 0


def test_bad_input(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, "llama", "Q4_1")
    with pytest.raises(ConfigError, match="dtype = 'float16'; expected one of float32, bfloat16"):
        qkv.load(path, dtype="float16")
    with pytest.raises(ConfigError, match="dtype = 'int4' on meta; expected the CPU"):
        qkv.load(path, dtype="int4", device="meta")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="truncated"):
        qkv.load(path, dtype="int4")

"""Optimized models in files: loaded, they are what was saved, bit for bit."""

import copy
import dataclasses
import json

import pytest
import torch
from tests.checkpoints.folders import contents, model, put_together, take_apart
from tests.checkpoints.tiny import TINY
from tests.tasks.small import FILES, write_base

import qkv
from qkv.errors import ConfigError, DataError
from qkv.generation.greedy import greedy
from qkv.inference.modules import PackedLinear
from qkv.inference.optimize import made_of
from qkv.inference.packed import PACKINGS
from qkv.inference.stored import restore, stored_tensors
from qkv.tasks.conversion import convert_model
from qkv.tasks.overview import inspect_model
from qkv.tasks.pretrained import Loaded
from qkv.tasks.task import task

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
WIDE = {  # so that int4 packs groups of 32 columns
    "bert": SIZES,
    "llama": SIZES | {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_head": 2},
    "marian": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    "t5": {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64},
}


def saved(folder, model_type="llama", dtype="int8"):
    """An optimized model and the folder that it was saved to."""
    fast = qkv.optimize(model(model_type, **WIDE.get(model_type, {})), dtype)
    qkv.save(Loaded(fast), folder / "fast")
    return fast, folder / "fast"


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", PACKINGS)
@pytest.mark.parametrize("model_type", WIDE)
def test_outputs_are_those_of_the_saved_model(tmp_path, model_type, dtype):
    fast, folder = saved(tmp_path, model_type, dtype)
    back = qkv.load(folder).model
    assert made_of(back).dtype == dtype
    assert not back.training
    same(back.state_dict(), fast.state_dict())
    few, many = torch.randint(37, (3, 5)), torch.randint(37, (7, 11))
    with torch.no_grad():
        for tokens in (few, many):
            if hasattr(fast, "start"):
                options = {"start": 1, "stop": 2, "max_length": 7}
                assert torch.equal(greedy(back, tokens, **options), greedy(fast, tokens, **options))
                state, other = back.start(tokens), fast.start(tokens)
                for step in (tokens[:, :1], tokens[:, 1:4]):
                    assert torch.equal(back.step(step, state), fast.step(step, other))
            else:
                assert torch.equal(back(tokens), fast(tokens))


@pytest.mark.parametrize("model_type", TINY)
def test_every_family_goes_and_comes_back(tmp_path, model_type):
    fast, folder = saved(tmp_path, model_type, "int4")
    loaded = qkv.load(folder)
    same(loaded.model.state_dict(), fast.state_dict())
    qkv.save(loaded, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_weights_are_packed_in_the_file_and_stay_so(tmp_path):
    fast, folder = saved(tmp_path, "llama", "int4")
    layer = "stack.blocks.0.self_attention.query.weight"
    header, data = take_apart(folder / "model.safetensors")
    assert (header[layer]["dtype"], header[layer]["shape"]) == ("U8", [32, 16])
    assert header[f"{layer}.scales"]["shape"] == [32, 2, 1]
    assert "head.weight" not in header  # tied
    assert len(data) < sum(p.numel() for p in made_of(fast).outline.parameters()) * 1.3
    back = qkv.load(folder).model
    assert back.head.packed.data_ptr() == back.embedding.packed.data_ptr()
    parts = back.stack.blocks[0].self_attention
    assert parts.key.packed.data_ptr() - parts.query.packed.data_ptr() == 32 * 16


def test_several_files(tmp_path):
    fast, _ = saved(tmp_path)
    qkv.save(Loaded(fast), tmp_path / "parts", shard_bytes=4096)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    same(qkv.load(tmp_path / "parts").model.state_dict(), fast.state_dict())


def test_the_tokenizer_goes_along_and_a_task_runs(tmp_path):
    loaded = qkv.load(write_base(tmp_path / "base", files=FILES))
    qkv.save(qkv.optimize(loaded, "int8"), tmp_path / "fast")
    texts = ["the film was superb", "a dull plot"]
    expected = task("embed", str(tmp_path / "base"), device="cpu", dtype="int8")(texts)
    for dtype in (None, "int8", "auto"):
        pipeline = task("embed", str(tmp_path / "fast"), device="cpu", dtype=dtype)
        assert (pipeline(texts) == expected).all()
    with pytest.raises(ConfigError, match="fast: dtype = 'int4', but this model is stored as"):
        task("embed", str(tmp_path / "fast"), device="cpu", dtype="int4")


def test_what_an_optimized_model_cannot_become(tmp_path):
    fast, folder = saved(tmp_path)
    assert qkv.load(folder, dtype=torch.float32, device="cpu").model is not None
    for options, what in (
        ({"dtype": torch.float16}, "dtype = torch.float16"),
        ({"device": "meta"}, "device = meta"),
        ({"new": "head"}, "new = head"),
        ({"labels": ["a", "b"]}, r"labels = \['a', 'b'\]"),
    ):
        with pytest.raises(ConfigError, match=f"stored as int8, for processors; {what}"):
            qkv.load(folder, **options)
    with pytest.raises(ConfigError, match="optimized model cannot be written as GGUF"):
        convert_model(folder, tmp_path / "fast.gguf")
    part = dataclasses.replace(Loaded(fast), model=torch.nn.Sequential(fast))
    with pytest.raises(ConfigError, match="only a part of what optimize returned"):
        qkv.save(part, tmp_path / "part")


def test_an_adapter_needs_the_model_itself(tmp_path):
    _, folder = saved(tmp_path)
    (tmp_path / "adapter").mkdir()
    text = json.dumps({"base_model_name_or_path": str(folder)})
    (tmp_path / "adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"names the base .*, which is optimized"):
        qkv.load(tmp_path / "adapter")


def test_it_is_described_as_the_model_that_it_was(tmp_path):
    loaded = qkv.load(saved(tmp_path)[1])
    ours = inspect_model(loaded)
    theirs = inspect_model(Loaded(model("llama", **WIDE["llama"])))
    assert ours["parameters"] == theirs["parameters"]
    assert ours["memory"] == theirs["memory"]
    assert {"what": "stored as", "value": "int8"} in ours["model"]


def test_a_layer_without_the_bias_that_others_have(tmp_path):
    one = model("llama", **WIDE["llama"])
    one.stack.blocks[0].self_attention.key.bias = None
    fast = qkv.optimize(one, "int8")
    query, key = (getattr(fast.stack.blocks[0].self_attention, x) for x in ("query", "key"))
    assert isinstance(query, PackedLinear)
    assert query.bias.any()
    assert key.bias is None
    outline = copy.deepcopy(made_of(fast).outline)
    same(restore(outline, "int8", stored_tensors(fast)).state_dict(), fast.state_dict())


class TestBroken:
    @pytest.fixture
    def folder(self, tmp_path):
        return saved(tmp_path)[1]

    def change(self, folder, **fields):
        raw = json.loads((folder / "config.json").read_text())
        raw["quantization_config"] |= fields
        (folder / "config.json").write_text(json.dumps(raw))

    def rename(self, folder, old, new):
        header, data = take_apart(folder / "model.safetensors")
        put_together(
            folder / "model.safetensors", {k.replace(old, new): v for k, v in header.items()}, data
        )

    def test_another_version(self, folder):
        self.change(folder, version=2)
        with pytest.raises(DataError, match="has version 2; expected 1: was it written by another"):
            qkv.load(folder)

    @pytest.mark.parametrize("dtype", ["int3", None, ["int8"]])
    def test_an_unknown_dtype(self, folder, dtype):
        self.change(folder, dtype=dtype)
        with pytest.raises(DataError, match=r"has dtype .*; expected one of float32, bfloat16"):
            qkv.load(folder)

    def test_another_dtype_than_that_of_the_weights(self, folder):
        self.change(folder, dtype="bfloat16")
        with pytest.raises(DataError, match=r"dtype torch.int8; expected .* torch.bfloat16"):
            qkv.load(folder)

    def test_another_method(self, folder):
        self.change(folder, quant_method="gptq")
        with pytest.raises(ConfigError, match="quantization_config"):
            qkv.load(folder)

    def test_a_truncated_file(self, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(DataError, match="truncated"):
            qkv.load(folder)

    def test_a_missing_and_an_unknown_tensor(self, folder):
        self.rename(folder, "0.feed_forward.up.weight", "0.feed_forward.other")
        with pytest.raises(DataError, match=r"0.feed_forward.up.weight'? in .* is missing"):
            qkv.load(folder)
        self.rename(folder, "0.feed_forward.other", "0.feed_forward.up.weight")
        header, data = take_apart(folder / "model.safetensors")
        end = max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
        put_together(folder / "model.safetensors", header, data + b"0000")
        with pytest.raises(DataError, match=r"more'? in .* has no place in a Llama stored as int8"):
            qkv.load(folder)

    def test_another_shape(self, folder):
        header, data = take_apart(folder / "model.safetensors")
        header["stack.blocks.0.feed_forward.up.weight"]["shape"] = [32, 64]
        put_together(folder / "model.safetensors", header, data)
        with pytest.raises(DataError, match=r"shape \(32, 64\) .*; expected \(64, 32\)"):
            qkv.load(folder)

    def test_scales_that_are_not_finite(self, folder):
        header, data = take_apart(folder / "model.safetensors")
        at = header["stack.blocks.0.feed_forward.up.weight.scales"]["data_offsets"][0]
        nan = torch.tensor([float("nan")]).numpy().tobytes()
        put_together(folder / "model.safetensors", header, data[:at] + nan + data[at + 4 :])
        with pytest.raises(DataError, match="has scales that are not finite"):
            qkv.load(folder)

    def test_weights_without_their_description(self, folder):
        raw = json.loads((folder / "config.json").read_text())
        del raw["quantization_config"]
        (folder / "config.json").write_text(json.dumps(raw))
        with pytest.raises(DataError, match="no parameter of this model is called"):
            qkv.load(folder)

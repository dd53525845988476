"""A and B in PEFT's files: one layer of theirs that is several of ours, and what does not fit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.adapted import CONFIG, QUERY, WEIGHTS, adapted, base, refused, rewrite
from tests.checkpoints.folders import contents, model
from tests.helpers import assert_close, randomized
from torch import nn

from qkv.checkpoints.adapters import load_adapter, save_adapter
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig, add_lora, lora_layers, merge_lora


def without(*names):
    return lambda tensors: [tensors.pop(f"base_model.model.{name}") for name in names]


def put(name, tensor):
    return lambda tensors: tensors.update({f"base_model.model.{name}": tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"{QUERY}.lora_A.weight"), rf"{QUERY}\.lora_A\.weight in .* is missing: target_m"),
        (without(f"{QUERY}.lora_B.weight"), rf"{QUERY}\.lora_B\.weight in .* is missing"),
        (
            without(f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"),
            rf"{QUERY}\.lora_A\.weight in .*{QUERY}\.lora_B\.weight in .* is missing",
        ),
        (without("classifier.bias"), r"classifier\.bias in .* is missing: modules_to_save names"),
        (
            put("bert.encoder.layer.7.attention.self.query.lora_A.weight", torch.zeros(3, 22)),
            r"layer\.7\.attention\.self\.query\.lora_A\.weight in .*: this model is a BertFor.* "
            r"and has no such layer; the adapter was made for BertForSequenceClass",
        ),
        (put("bert.oddity", torch.zeros(3)), r"model\.bert\.oddity in .*has no such layer"),
        (
            put("bert.encoder.layer.0.attention.self.key.lora_A.weight", torch.zeros(3, 22)),
            r"self\.key\.lora_A.*config\.json does not name bert.*self\.key in target_modules",
        ),
        (
            put("bert.embeddings.LayerNorm.lora_A.weight", torch.zeros(3, 22)),
            r"bert\.embeddings\.LayerNorm is not a separate linear layer or embedding",
        ),
        (
            put(f"{QUERY}.lora_A.weight", torch.zeros(5, 22)),
            rf"{QUERY}\.lora_A\.weight in .* has shape \(5, 22\) .*\(3, 22\).*has rank 3",
        ),
        (
            put(f"{QUERY}.lora_B.weight", torch.zeros(26, 3)),
            r"lora_B\.weight in .* has shape \(26, 3\) .*\(22, 3\).*the base model of the adapter",
        ),
        (
            put(f"{QUERY}.lora_B.weight", torch.zeros(22, 3, dtype=torch.int8)),
            r"has shape \(22, 3\) and dtype torch\.int8; expected floating",
        ),
        (
            put("classifier.weight", torch.zeros(7, 22)),
            r"classifier\.weight .*\(7, 22\).*\(5, 22\)",
        ),
        (
            lambda tensors: tensors.update({"bert.oddity": torch.zeros(3)}),
            r"bert\.oddity in .*; expected names that begin with base_model\.model\.",
        ),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    save_adapter(adapted(train=("classifier",)), tmp_path)
    rewrite(tmp_path, change)
    refused(tmp_path, DataError, message)


def test_a_tied_output_layer_is_not_stored_whole(tmp_path):
    head = "GPT2LMHeadModel"
    save_adapter(adapted("gpt2", head), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    rewrite(tmp_path / "a", put("lm_head.weight", torch.zeros(37, 22)))
    rewrite(tmp_path / "b", modules_to_save=["lm_head"])
    one = base("gpt2", head)
    refused(tmp_path / "a", DataError, r"lm_head\.weight in .*no separate parameter", one)
    refused(tmp_path / "b", DataError, r"lm_head\.weight in .*missing: modules_to_save", one)


def test_another_base_model(tmp_path):
    save_adapter(adapted(), tmp_path / "bert")
    message = r"bert\.encoder.* and 8 more: this model is a GPT2LMHeadModel and has no such"
    refused(tmp_path / "bert", DataError, message, base("gpt2", "GPT2LMHeadModel"))
    narrow = randomized(base().__class__(model(hidden_size=33, intermediate_size=31), 5))
    refused(tmp_path / "bert", DataError, r"has shape \(3, 22\) .*\(3, 33\)", narrow)
    save_adapter(adapted("bert", "BertModel"), tmp_path / "encoder")
    refused(tmp_path / "encoder", DataError, "the adapter was made for BertModel")
    linear = nn.Sequential(nn.Linear(3, 5))
    refused(tmp_path / "bert", ConfigError, "this Sequential is not a model of any family", linear)


GPT_QUERY = "base_model.model.transformer.h.0.attn.c_attn"


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_gpts_one_projection_is_three_of_ours(rank_stabilized, tmp_path):
    head, pattern = "GPT2LMHeadModel", r"0\.self_attention\.(query|key|value)"
    one = adapted("gpt2", head, pattern=pattern, rank_stabilized=rank_stabilized)
    save_adapter(one, tmp_path / "own")
    tensors = load_file(tmp_path / "own" / WEIGHTS)
    down, up = (tensors[f"{GPT_QUERY}.lora_{f}.weight"] for f in "AB")
    assert (down.shape, up.shape) == ((9, 22), (66, 9))
    query, key, value = lora_layers(one).values()
    assert torch.equal(up, torch.block_diag(query.B, key.B, value.B))
    raw = json.loads((tmp_path / "own" / CONFIG).read_text())
    assert raw["fan_in_fan_out"]
    assert raw["target_modules"] == ["transformer.h.0.attn.c_attn"]
    other = base("gpt2", head)
    load_adapter(other, tmp_path / "own")
    assert {layer.rank for layer in lora_layers(other).values()} == {9}
    for mine, loaded in zip((query, key, value), lora_layers(other).values(), strict=True):
        assert loaded.scale == pytest.approx(query.scale, rel=1e-15)
        assert_close(loaded.weight, mine.weight)
    # What was loaded shares its A, and is one of the same rank again.
    save_adapter(other, tmp_path / "again")
    assert contents(tmp_path / "own") == contents(tmp_path / "again")


def test_a_part_of_gpts_projection_has_zeros_for_the_rest(tmp_path):
    one = adapted("gpt2", "GPT2LMHeadModel", pattern="0.*(query|value)")
    save_adapter(one, tmp_path)
    up = load_file(tmp_path / WEIGHTS)[f"{GPT_QUERY}.lora_B.weight"]
    assert up.shape == (66, 6)
    assert not up[22:44].any()
    other = base("gpt2", "GPT2LMHeadModel")
    assert len(load_adapter(other, tmp_path)) == 3
    merge_lora(one)
    merge_lora(other)
    for mine, loaded in zip(one.parameters(), other.parameters(), strict=True):
        assert_close(loaded, mine)


def test_one_projection_has_one_scale(tmp_path):
    one = adapted("gpt2", "GPT2LMHeadModel", pattern="query")
    add_lora(one, LoRAConfig(pattern="value", rank=3, alpha=5.0))
    with pytest.raises(ConfigError, match=r"query.*value.weight are one layer .*c_attn.*2.3.*1.6"):
        save_adapter(one, tmp_path / "x")
    assert not (tmp_path / "x").exists()

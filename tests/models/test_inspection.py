"""Laws of inspection, for every architecture of every family: numbers are those of the model."""

import pytest
import torch
from tests.checkpoints.folders import model
from tests.checkpoints.tiny import TINY
from torch import nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.positions import ALiBi
from qkv.checkpoints.registry import FAMILIES
from qkv.models.inspection import (
    describe_attention,
    describe_blocks,
    describe_memory,
    name_positions,
    size,
)
from qkv.tasks.overview import describe_model, inspect_model
from qkv.tasks.pretrained import Loaded

EVERY = [(name, one.name) for name, family in FAMILIES.items() for one in family.architectures]
each = pytest.mark.parametrize(("model_type", "architecture"), EVERY)


def number(cell):
    return int(cell.replace(",", ""))


@each
def test_every_model_has_its_tables_and_parts_add_up(model_type, architecture):
    built = model(model_type, architecture)
    tables = inspect_model(Loaded(built, config={"model_type": model_type}))
    assert {"model", "parameters", "memory"} <= tables.keys()
    assert ("blocks" in tables) == (model_type != "qkv_rnn")
    for rows in tables.values():
        assert all(isinstance(cell, str) for row in rows for cell in row.values())
        assert {tuple(row) for row in rows} == {tuple(rows[0])}
    *parts, whole = tables["parameters"]
    n_parameters = sum(parameter.numel() for parameter in built.parameters())
    assert sum(number(row["parameters"]) for row in parts) == n_parameters
    assert number(whole["parameters"]) == n_parameters
    assert len({row["part"] for row in parts}) == len(parts)
    assert sum(float(row["share"].strip("%")) for row in parts) == pytest.approx(100, abs=1)
    attentions = [one for one in built.modules() if hasattr(one, "recorder")]
    assert len(tables["attention"]) <= len(attentions)


def rows(found, key):
    return {row[key]: row for row in found}


def test_attention_of_a_decoder_with_windows_above():
    found = describe_attention(model("qwen2"))
    assert [row["where"] for row in found] == [
        "stack.blocks.0.self_attention",
        "stack.blocks.1-2.self_attention",
    ]
    assert [row["window"] for row in found] == ["", "4 before"]
    for row in found:
        assert (row["heads"], row["key heads"], row["width"]) == ("6", "2", "4")
        assert row["causal"] == "yes"
        assert row["positions"] == "rotary, base 10,000"


def test_attention_of_an_encoder_decoder():
    found = rows(describe_attention(model("qkv_transformer")), "where")
    cross = "encoder.blocks.0-2.self_attention, decoder.blocks.0-1.cross_attention"
    assert set(found) == {cross, "decoder.blocks.0-1.self_attention"}
    assert found[cross]["causal"] == "no"
    assert found["decoder.blocks.0-1.self_attention"]["causal"] == "yes"
    (only,) = describe_attention(model("qkv_rnn"))
    assert only["kind"] == "AdditiveAttention"


def test_blocks():
    encoder, decoder = describe_blocks(model("qkv_transformer"))
    assert (encoder["stack"], encoder["blocks"]) == ("encoder", "3")
    assert (decoder["stack"], decoder["blocks"]) == ("decoder", "2")
    assert decoder["sublayers"] == "self_attention, cross_attention, feed_forward"
    assert decoder["norm"] == "LayerNorm after each"
    (stack,) = describe_blocks(model("llama"))
    assert stack["norm"] == "RMSNorm before each"
    assert stack["feed-forward"] == "swiglu, 29 wide"


def test_facts():
    facts = {
        name: {row["what"]: row["value"] for row in describe_model(Loaded(model(*which)))}
        for name, which in {
            "masked": ("bert", "BertForMaskedLM"),
            "classes": ("bert", "BertForSequenceClassification"),
            "images": ("vit",),
            "untied": ("llama",),
        }.items()
    }
    masked = facts["masked"]
    assert masked["class"] == "MaskedLM"
    assert masked["vocabulary, encoder.embedding"] == "37 tokens of 22 numbers"
    assert masked["tokenizer"] == "none"
    assert masked["positions"] == "learned, 41"
    assert masked["shared"] == "head.output.weight is encoder.embedding.weight"
    assert facts["classes"]["classes"] == "5"
    assert facts["images"]["positions"] == "learned, 10"
    assert not any(name.startswith("vocabulary") for name in facts["images"])
    assert facts["untied"]["positions"].startswith("rotary, base 10,000, TurnsScaling(factor=8.0")
    assert "shared" not in facts["untied"]


def test_memory_is_that_of_the_parameters_and_of_the_cache():
    found = rows(describe_memory(model("llama").to(torch.bfloat16)), "dtype")
    assert list(found) == ["bfloat16 (as it is)", "float32", "float16"]
    n_parameters = sum(parameter.numel() for parameter in model("llama").parameters())
    assert found["float32"]["weights"] == size(4 * n_parameters)
    assert found["float32"]["weights, gradients, AdamW"] == size(16 * n_parameters)
    # 3 layers, keys and values, 2 key heads of 10 numbers, 2 bytes, 1,000 tokens.
    assert found["float16"]["cache of 1,000 tokens"] == "240.0 kB"
    assert all("cache" not in key for row in describe_memory(model("bert")) for key in row)


def test_a_bias_of_places():
    wide = nn.ModuleDict({"one": MultiHeadAttention(22, 11, position_bias=ALiBi(11))})
    (row,) = describe_attention(wide)
    assert (row["where"], row["positions"]) == ("one", "ALiBi")
    assert name_positions(nn.Identity()) == ""


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(499, "0.5 kB"), (1_234_567, "1.2 MB"), (7 * 10**9, "7.0 GB"), (1.2e12, "1,200.0 GB")],
)
def test_sizes(n_bytes, text):
    assert size(int(n_bytes)) == text


def test_every_family_has_a_small_model():
    assert TINY.keys() == FAMILIES.keys()

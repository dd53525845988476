"""Llama, Mistral and Qwen2 against transformers, through files, in float64 and float32."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from tests.parity.causal import (
    CLASSES,
    LAYERS,
    PAD,
    PADDINGS,
    VOCAB,
    L,
    compare_decoding,
    compare_logits,
    compare_numbers,
    run_theirs,
    texts,
)
from tests.parity.published import comes_back, through_a_file
from tests.parity.reference import agree, widened
from tests.parity.weights import measure, randomize
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qkv.blocks.rotary_scaling import LinearScaling, TurnsScaling, YaRNScaling
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.convert import convert
from qkv.checkpoints.tables.rotary import normalize_rotary, read_scaling
from qkv.models.llama import Llama, LlamaConfig

HEADS = ("ForCausalLM", "Model", "ForSequenceClassification")


def rope(kind, **options):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **options}}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    original_max_position_embeddings=64,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
)
WINDOW = {"sliding_window": 5}
VARIANTS = {
    "llama": ("Llama", {"num_key_value_heads": 6}),
    "llama, grouped, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, one key head, wide heads, biases": (
        "Llama",
        {"num_key_value_heads": 1, "head_dim": 10, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, scaled as llama3": ("Llama", LLAMA3),
    "llama, scaled linearly": ("Llama", rope("linear", factor=3.0)),
    "llama, scaled by yarn": (
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=32),
    ),
    "llama, scaled by another yarn": (
        "Llama",
        rope(
            "yarn",
            factor=2.5,
            original_max_position_embeddings=64,
            beta_fast=9.0,
            beta_slow=2.0,
            truncate=False,
            attention_factor=1.3,
        ),
    ),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 10}),
    "mistral, windows": ("Mistral", WINDOW),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows above": (
        "Qwen2",
        {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
}
each = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant, head, folder):
    family, options = VARIANTS[variant]
    sizes = {
        "hidden_size": 24,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 29,
        "max_position_embeddings": 97,
        "rms_norm_eps": 1e-3,
    }
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB, num_labels=CLASSES, **{**sizes, **tokens, **options}
    )
    theirs = getattr(transformers, f"{family}{head}")(config)
    return theirs, through_a_file(theirs, folder)


@each
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers_of_every_variant(variant, padding, tmp_path):
    theirs, checkpoint = make(variant, "ForCausalLM", tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, "embedding", padding, tmp_path / "gradients")


@pytest.mark.parametrize("variant", ["llama", "mistral, windows", "qwen2"])
@pytest.mark.parametrize("head", HEADS[1:])
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers_of_every_head(variant, head, padding, tmp_path):
    theirs, checkpoint = make(variant, head, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, "embedding", padding, tmp_path / "gradients")


@each
def test_positions_far_out(variant, tmp_path):
    theirs, checkpoint = make(variant, "ForCausalLM", tmp_path)
    ids, _ = texts("none")
    positions = torch.arange(L) * 7 + torch.tensor([[0], [101], [1009]])

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            expected = theirs(ids, position_ids=positions).logits
            return {"logits": (ours(ids, positions=positions), expected)}

    agree(numbers, checkpoint.model, theirs)
    far, plain = (checkpoint.model(ids, positions=p) for p in (positions, torch.arange(L)[None]))
    assert measure(far, plain) > 1e-3


@pytest.mark.parametrize("variant", ["llama, scaled by yarn", "mistral, windows", "qwen2"])
def test_decoding(variant, tmp_path):
    theirs, checkpoint = make(variant, "ForCausalLM", tmp_path)
    compare_decoding(checkpoint.model, theirs)


@pytest.mark.parametrize(
    ("variant", "head"),
    [
        *((variant, "ForCausalLM") for variant in VARIANTS),
        *((variant, head) for variant in ("llama", "mistral", "qwen2") for head in HEADS[1:]),
    ],
)
def test_saving_back(variant, head, tmp_path):
    theirs, checkpoint = make(variant, head, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right")
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch, "right")[0] for model in (again, theirs))
    assert torch.equal(found, expected)


SIZES = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "n_heads": 6,
    "n_kv_heads": 2,
    "d_ff": 29,
    "n_layers": LAYERS,
}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {"d_head": 10, "qkv_bias": True, "output_bias": True}),
        ("Llama", {"tied_output": True, "rotary_scaling": LinearScaling(factor=3.0)}),
        ("Llama", {"n_kv_heads": None, "rotary_base": 99.0, "feed_forward_bias": True}),
        ("Llama", {"rotary_scaling": TurnsScaling(factor=3.0, original_length=64)}),
        ("Llama", {"rotary_scaling": YaRNScaling(factor=3.0, original_length=64, few_turns=2.0)}),
        ("Mistral", {"window": 5}),
        ("Mistral", {"window": 5, "n_kv_heads": None}),
        ("Qwen2", {"qkv_bias": True}),
        ("Qwen2", {"qkv_bias": True, "window": 5, "first_window_layer": 2, "n_kv_heads": None}),
    ],
)
def test_a_model_of_ours_is_one_of_theirs(family, options, tmp_path):
    ours = Llama(LlamaConfig(**{**SIZES, **options})).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours), tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(theirs).__name__ == f"{family}ForCausalLM"
    assert not any(report.values())
    ids, _ = texts("none")
    compare_logits(ours, theirs.eval(), ids)
    assert load_checkpoint(tmp_path).model.config == ours.config


@pytest.mark.parametrize("base", [1e4, 5e5])
@pytest.mark.parametrize("length", [64, 1024, 8192, 131072])
@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_frequencies_of_published_sizes(kind, length, base):
    said = {"factor": 8.0}
    if kind != "linear":
        said["original_max_position_embeddings"] = length
    if kind == "llama3":
        said |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    parameters = {"rope_type": kind, "rope_theta": base, **said}
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=1, rope_parameters=dict(parameters)
    )
    with widened():
        expected, magnitude = ROPE_INIT_FUNCTIONS[kind](config)
    scaling = read_scaling(normalize_rotary({"rope_parameters": parameters})["rope_scaling"])
    frequencies, ours = scaling(base ** (-torch.arange(64).double() / 64), base)
    assert ((frequencies - expected).abs() / expected).max() <= 1e-12
    assert ours == pytest.approx(magnitude)


def test_a_converted_model_is_one_of_theirs(tmp_path):
    folder = os.environ.get("QKV_DATA")
    if not folder:
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    source = Path(folder, "pretrained", "stories260K")
    save_checkpoint(Checkpoint(convert(source / "stories260K.bin")), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = json.loads((source / "expected_greedy.json").read_text())["token_ids"]
    with torch.no_grad():
        ids = theirs.generate(torch.tensor([[1]]), max_new_tokens=len(expected), do_sample=False)
    assert ids[0, 1:].tolist() == expected

"""What config.json of GPT-2 and the Llama family may say: published ones, and what is refused."""

import pytest
from tests.checkpoints.tiny import TINY

from qkv.blocks.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    TurnsScaling,
    YaRNScaling,
)
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError
from qkv.models.gpt import GPTConfig
from qkv.models.llama import LlamaConfig

# As published, less what every config.json may say.
PUBLISHED = {
    "openai-community/gpt2": (
        {
            "activation_function": "gelu_new",
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "vocab_size": 50257,
        },
        GPTConfig(),
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        {
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "max_position_embeddings": 2048,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 22,
            "num_key_value_heads": 4,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        LlamaConfig(
            vocab_size=32000, d_model=2048, n_heads=32, n_kv_heads=4, d_ff=5632, n_layers=22
        ),
    ),
    "meta-llama/Llama-3.2-1B": (
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
        LlamaConfig(
            vocab_size=128256,
            d_model=2048,
            n_heads=32,
            n_kv_heads=8,
            d_head=64,
            d_ff=8192,
            n_layers=16,
            n_positions=131072,
            rotary_base=5e5,
            rotary_scaling=TurnsScaling(factor=32.0, original_length=8192),
            tied_output=True,
        ),
    ),
    "mistralai/Mistral-7B-v0.1": (
        {
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        LlamaConfig(
            vocab_size=32000,
            d_model=4096,
            n_heads=32,
            n_kv_heads=8,
            d_ff=14336,
            n_layers=32,
            n_positions=32768,
            window=4096,
        ),
    ),
    "Qwen/Qwen2-0.5B": (
        {
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_position_embeddings": 131072,
            "max_window_layers": 24,
            "model_type": "qwen2",
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000,
            "sliding_window": 131072,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        LlamaConfig(
            vocab_size=151936,
            d_model=896,
            n_heads=14,
            n_kv_heads=2,
            d_ff=4864,
            n_layers=24,
            n_positions=131072,
            norm_eps=1e-6,
            rotary_base=1e6,
            qkv_bias=True,
            tied_output=True,
        ),
    ),
}


def read(raw):
    family = FAMILIES[raw["model_type"]]
    return family.read_config(raw, family.architecture(None))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published(name):
    raw, expected = PUBLISHED[name]
    assert read(raw) == expected


def tiny(family, **changes):
    return {"model_type": family, **TINY[family], **changes}


def llama(**changes):
    return read({**tiny("llama", rope_scaling=None), **changes})


SAID = {"factor": 4, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, LinearScaling(factor=2.0)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}}, LinearScaling(factor=2.0)),
        (
            {"rope_scaling": {"rope_type": "yarn", **SAID, "mscale": None}},
            YaRNScaling(factor=4.0, original_length=32),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 128},
            YaRNScaling(factor=4.0, original_length=128),
        ),
        ({"rope_scaling": {"rope_type": "default"}}, None),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            DynamicScaling(factor=2.0, original_length=2048),
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", **SAID, "mscale": 1, "mscale_all_dim": 0.7}},
            YaRNScaling(factor=4.0, original_length=32, mscale=1.0, mscale_all_dim=0.7),
        ),
        (
            {
                "rope_scaling": {"type": "yarn", "factor": None, "mscale": 0, "beta_fast": 0},
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 128,
            },
            YaRNScaling(factor=4.0, original_length=32),
        ),
        (
            {
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1, 1, 1.5, 1, 1],
                    "long_factor": [1, 2, 3, 4, 5],
                },
                "original_max_position_embeddings": 4096,
                "max_position_embeddings": 131_072,
            },
            LongRopeScaling(
                short=(1.0, 1.0, 1.5, 1.0, 1.0),
                long=(1.0, 2.0, 3.0, 4.0, 5.0),
                original_length=4096,
                factor=32.0,
            ),
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, None),
    ],
)
def test_rotary_positions_in_old_and_new_words(said, scaling):
    config = llama(**said)
    assert config.rotary_scaling == scaling
    assert config.rotary_base == said.get("rope_parameters", {}).get("rope_theta", 1e4)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tiny("llama", hidden_act="relu"), "hidden_act = 'relu' is not implemented for llama"),
        (
            tiny("llama", rope_scaling={"rope_type": "longrope"}),
            "type 'longrope' with .*: .*'short'",
        ),
        (
            tiny(
                "llama",
                rope_scaling={
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 5,
                    "long_factor": [2.0] * 4,
                },
            ),
            "4 divisors for rotary frequencies; expected 5, one for each pair .* of width 10",
        ),
        (
            tiny(
                "llama",
                rope_scaling={"rope_type": "longrope", "short_factor": 1, "long_factor": [2.0]},
            ),
            "short_factor = 1; expected a list, each a finite number above 0",
        ),
        (tiny("llama", rope_scaling="linear"), "rope_scaling = 'linear'; expected an object"),
        (
            tiny("llama", rope_scaling={"rope_type": "default", "mrope_section": [2, 3]}),
            "mrope_section is not implemented for rotary positions of type 'default'; expected",
        ),
        (
            tiny("llama", rope_scaling={"rope_type": "llama3", **SAID, "mscale": 0.7}),
            "mscale is not implemented for rotary positions of type 'llama3'",
        ),
        (tiny("llama", partial_rotary_factor=0.0), "rotary_share = 0.0; expected a share above 0"),
        (tiny("llama", partial_rotary_factor=1.5), "rotary_share = 1.5; expected a share above 0"),
        (tiny("llama", rope_scaling={"rope_type": "linear"}), "type 'linear' with {}: .*factor"),
        (
            tiny("llama", rope_scaling={"rope_type": "linear", "factor": "two"}),
            "type 'linear': factor = 'two'; expected a finite number above 0",
        ),
        (tiny("mistral", sliding_window=1), "window = 1; expected at least 2"),
        (
            tiny("qwen2", layer_types=["sliding_attention", "full_attention", "full_attention"]),
            "layer_types = .* expected full_attention, then",
        ),
        (
            tiny("qwen2", use_sliding_window=False, layer_types=["sliding_attention"] * 3),
            "layer_types has sliding_attention, but there is no window size.*use_sliding_window",
        ),
        (tiny("gpt2", add_cross_attention=True), "add_cross_attention = True is not implemented"),
        (tiny("gpt2", activation_function="mish"), "activation_function = 'mish' is not impl"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(raw, message):
    with pytest.raises(ConfigError, match=message):
        read(raw)


@pytest.mark.parametrize(
    ("changes", "window", "first"),
    [
        ({}, 5, 1),
        ({"layer_types": ["full_attention", *["sliding_attention"] * 2]}, 5, 1),
        ({"layer_types": ["sliding_attention"] * 3}, 5, 0),
        ({"layer_types": ["full_attention"] * 3, "use_sliding_window": False}, None, 0),
        ({"layer_types": ["full_attention"] * 3}, None, 0),
        ({"max_window_layers": 3}, None, 0),
        ({"use_sliding_window": False}, None, 0),
    ],
)
def test_which_layers_of_qwen2_have_windows(changes, window, first):
    config = read(tiny("qwen2", **changes))
    assert (config.window, config.first_window_layer) == (window, first)


def test_what_is_left_out_is_as_transformers_has_it():
    assert read({"model_type": "mistral"}).window == 4096
    assert read({"model_type": "mistral"}).n_kv_heads == 8
    assert read({"model_type": "mistral", "sliding_window": None}).window is None
    assert read({"model_type": "llama"}).n_kv_heads == 32
    assert read({"model_type": "gpt2", "n_embd": 24}).d_ff == 96


def test_how_many_coordinates_turn():
    assert llama().rotary_share == 1
    assert llama(partial_rotary_factor=0.4).rotary_share == 0.4
    inside = {"rope_type": "default", "partial_rotary_factor": 0.6}
    assert llama(rope_parameters=inside).rotary_share == 0.6
    assert llama(rope_parameters=inside, partial_rotary_factor=0.4).rotary_share == 0.6


def test_windows_do_not_refuse_to_drop_weights():
    assert read(tiny("mistral", attention_dropout=0.1)).attention_dropout == 0.1

"""Fields of config.json that may contradict each other: read as transformers reads them."""

import itertools

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from qkv.blocks.positions import Rotary
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError

FULL, SLIDING = "full_attention", "sliding_attention"
LEFT_OUT = object()
LAYERS, HEAD, LENGTH = 3, 8, 71  # layers, width of a head, places
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": 24, "num_attention_heads": 3}
KINDS = [LEFT_OUT, None, *map(list, itertools.product((FULL, SLIDING), repeat=LAYERS))]
REFUSED = "refused"


def fields(**said):
    return {name: value for name, value in said.items() if value is not LEFT_OUT}


def build(model_type, raw):
    """Read by transformers, as a file is; what it changes in place is a copy."""
    return CONFIG_MAPPING[model_type].from_dict({**SIZES, **raw})


def read(model_type, raw):
    family = FAMILIES[model_type]
    return family.read_config({"model_type": model_type, **SIZES, **raw}, family.architectures[0])


def our_windows(config):
    if config.window is None:
        return [None] * config.n_layers
    return [config.window if i >= config.first_window_layer else None for i in range(LAYERS)]


def their_windows(config, model_type):
    if model_type == "llama":
        return [None] * LAYERS
    if model_type == "mistral":
        return [config.sliding_window] * LAYERS
    kinds = config.layer_types
    return [config.sliding_window if kind == SLIDING else None for kind in kinds]


def outcome(read_it):
    try:
        return read_it()
    except (ConfigError, ValueError):
        return REFUSED


QWEN2 = list(
    itertools.product(
        (True, False, LEFT_OUT),  # use_sliding_window
        (5, None, LEFT_OUT),  # sliding_window
        (0, 1, LAYERS, 28, LEFT_OUT),  # max_window_layers
        KINDS,
    )
)


def test_windows_of_qwen2():
    """Each combination is read as transformers reads it, or refused: never read otherwise."""
    read_alike = 0
    for use, window, first, kinds in QWEN2:
        raw = fields(
            use_sliding_window=use,
            sliding_window=window,
            max_window_layers=first,
            layer_types=kinds,
        )
        ours = outcome(lambda raw=raw: our_windows(read("qwen2", raw)))
        theirs = their_windows(build("qwen2", raw), "qwen2")
        in_order = kinds in (LEFT_OUT, None) or kinds == sorted(kinds)
        windows = kinds not in (LEFT_OUT, None) and SLIDING in kinds
        widthless = windows and (use is not True or window is None)
        if in_order and not widthless:
            assert ours == theirs, raw
            read_alike += 1
        else:  # transformers fails in the forward pass, or ours has no such model
            assert ours == REFUSED, raw
    assert read_alike == 45 * 3 + 10 * 3  # no layer with a window, and some with a width


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_windows_of_llama_and_mistral(model_type):
    """Both pass `layer_types` over, so one that says something else than they do is refused."""
    windows = (5, None, LEFT_OUT) if model_type == "mistral" else (LEFT_OUT,)
    for window, kinds in itertools.product(windows, KINDS):
        raw = fields(sliding_window=window, layer_types=kinds)
        ours = outcome(lambda raw=raw: our_windows(read(model_type, raw)))
        theirs = their_windows(build(model_type, raw), model_type)
        says = kinds
        if kinds not in (LEFT_OUT, None):
            says = [theirs[i] if kind == SLIDING else None for i, kind in enumerate(kinds)]
            contradicts = says != theirs or (SLIDING in kinds and None in theirs)
            assert ours == (REFUSED if contradicts else theirs), raw
        else:
            assert ours == theirs, raw


LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
ROTARY = list(
    itertools.product(
        (500.0, LEFT_OUT),  # rope_theta
        (  # rope_scaling
            LEFT_OUT,
            None,
            {},
            LINEAR,
            {"type": "linear", "factor": 3.0},
            {**LINEAR, "type": "dynamic"},
            {"type": "yarn", "factor": 2.0},
        ),
        (  # rope_parameters
            LEFT_OUT,
            None,
            {},
            {"rope_type": "default", "rope_theta": 70.0},
            {**LINEAR, "factor": 5.0},
            {**LLAMA3, "rope_theta": 90.0},
            {**LLAMA3, "original_max_position_embeddings": 16},
        ),
        (64, LEFT_OUT),  # max_position_embeddings
    )
)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_rotary_angles(model_type):
    """Each combination of the older and the newer fields turns as in transformers."""
    x = torch.randn(1, 1, LENGTH, HEAD, dtype=torch.float64)
    positions = torch.arange(LENGTH)
    for base, scaling, parameters, n_positions in ROTARY:
        raw = fields(
            rope_theta=base,
            rope_scaling=scaling,
            rope_parameters=parameters,
            max_position_embeddings=n_positions,
        )
        sizes = {"head_dim": HEAD} if model_type != "qwen2" else {}
        theirs = build(model_type, {**_copied(raw), **sizes})
        rotary = LlamaRotaryEmbedding(theirs)
        cos, sin = rotary(x.float(), positions[None])
        a, b = x.chunk(2, -1)
        turned = x * cos + torch.cat((-b, a), -1) * sin
        config = read(model_type, {**_copied(raw), **sizes})
        ours = Rotary(HEAD, base=config.rotary_base, scaling=config.rotary_scaling)(x, positions)
        assert torch.allclose(ours, turned, rtol=0, atol=2e-5), raw
        assert config.rotary_base == theirs.rope_parameters["rope_theta"], raw
        assert config.n_positions == theirs.max_position_embeddings


def _copied(raw):
    return {name: dict(one) if isinstance(one, dict) else one for name, one in raw.items()}

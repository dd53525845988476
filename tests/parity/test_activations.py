"""Activations by the names of transformers: which are ours, and that every family has them."""

import copy

import pytest
import torch
import transformers
from tests.checkpoints.tiny import TINY
from tests.helpers import assert_as_exact
from tests.parity.published import through_a_file
from tests.parity.reference import agree
from transformers.activations import ACT2FN

from qkv.blocks.feed_forward import ACTIVATIONS as OURS
from qkv.checkpoints.registry import FAMILIES
from qkv.checkpoints.tables.activations import ACTIVATIONS, GATED
from qkv.errors import ConfigError

FIELDS = ("hidden_act", "activation", "activation_function", "feed_forward_proj")
PUBLISHED = [name for name in TINY if not name.startswith("qkv_")]


def act(name, x):
    return ACT2FN[name](x.clone())


def test_exactly_the_names_of_functions_that_are_ours():
    x = torch.linspace(-30, 30, 200_003, dtype=torch.float64)
    names = [name for name in ACT2FN if name not in ("prelu", "xielu")]  # which have parameters
    found = {
        name: kind
        for name in names
        for kind, f in OURS.items()
        if (f(x) - act(name, x)).abs().max() < 1e-11
    }
    assert found == ACTIVATIONS


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_in_float32_the_names_of_one_function_cannot_be_told_apart(name):
    x = torch.linspace(-9, 9, 20_011)
    assert_as_exact(OURS[ACTIVATIONS[name]](x), act(name, x), act(name, x.double()))


def field(family):
    return next(one for one in family.fields if one.theirs in FIELDS)


def make(model_type, name, head, folder):
    family = FAMILIES[model_type]
    tokens = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": None}
    said = {**TINY[model_type], **tokens, "decoder_start_token_id": 1, field(family).theirs: name}
    said = copy.deepcopy(said)  # transformers changes the rotary positions in it
    theirs = getattr(transformers, head)(transformers.AutoConfig.for_model(model_type, **said))
    return theirs, through_a_file(theirs, folder)


def compare(theirs, model):
    config = theirs.config
    ids = torch.randint(2, 37, (3, 7))
    given = {"decoder_input_ids": ids[:, :5]} if config.is_encoder_decoder else {}

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            if hasattr(config, "num_channels"):
                size = config.image_size
                size = size if isinstance(size, list | tuple) else (size, size)
                pixels = torch.randn(3, config.num_channels, *size).to(dtype)
                return {"output": (ours(pixels), theirs(pixel_values=pixels)[0])}
            expected = theirs(ids, attention_mask=torch.ones_like(ids), **given)[0]
            return {"output": (ours(ids, *given.values()), expected)}

    agree(numbers, model, theirs)


@pytest.mark.parametrize("name", ["gelu_python", "gelu_new", "relu", "swish"])
@pytest.mark.parametrize("model_type", PUBLISHED)
def test_every_family_has_every_activation(model_type, name, tmp_path):
    family = FAMILIES[model_type]
    known = field(family).values
    if known == GATED and name == "relu":
        with pytest.raises(ConfigError, match="hidden_act = 'relu' is not implemented"):
            family.read_config({"hidden_act": "relu"}, family.architectures[0])
        return
    assert known.keys() >= (GATED if known == GATED else ACTIVATIONS).keys()
    base = next(one.name for one in family.architectures if one.base)
    theirs, checkpoint = make(model_type, name, base, tmp_path)
    compare(theirs, checkpoint.model)


@pytest.mark.parametrize("name", ["gelu_new", "relu", "swish"])
@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "BertForMaskedLM"),
        ("roberta", "RobertaForMaskedLM"),
        ("xlm-roberta", "XLMRobertaForMaskedLM"),
        ("camembert", "CamembertForMaskedLM"),
        ("distilbert", "DistilBertForMaskedLM"),
    ],
)
def test_which_activation_the_head_of_a_masked_lm_has(model_type, head, name, tmp_path):
    """RoBERTa's is the exact GELU, whatever its blocks have."""
    theirs, checkpoint = make(model_type, name, head, tmp_path)
    compare(theirs, checkpoint.model)


@pytest.mark.parametrize("name", ["gated-gelu", "gated-gelu_python", "gated-swish"])
def test_gated_activations_of_t5(name, tmp_path):
    theirs, checkpoint = make("t5", name, "T5Model", tmp_path)
    compare(theirs, checkpoint.model)


@pytest.mark.parametrize("model_type", PUBLISHED)
@pytest.mark.parametrize("name", ["quick_gelu", "gelu_10", "mish", "relu6", "GELU", ""])
def test_other_names_are_refused(model_type, name):
    family = FAMILIES[model_type]
    said = {**TINY[model_type], field(family).theirs: name}
    with pytest.raises(ConfigError, match=f"{name!r} is not implemented for {model_type}"):
        family.read_config(said, family.architectures[0])

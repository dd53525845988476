"""BART against transformers, through files, in float64 and float32."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.helpers import unchecked
from tests.parity.encoder_decoder import (
    FF,
    OUR_SIZES,
    PADDINGS,
    POSITIONS,
    SIZES,
    TOKENS,
    VOCAB,
    compare_decoding,
    compare_logits,
    compare_numbers,
    run_theirs,
    texts,
)
from tests.parity.published import comes_back, through_a_file
from tests.parity.weights import randomize

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.errors import ConfigError, DataError, LengthError
from qkv.models.bart import Bart, BartConfig

HEADS = ("ForConditionalGeneration", "Model")
each_head = pytest.mark.parametrize("head", HEADS)


def make(head, folder, activation="gelu"):
    config = transformers.BartConfig(**SIZES, **TOKENS, activation_function=activation)
    theirs = getattr(transformers, f"Bart{head}")(config)
    return theirs, through_a_file(theirs, folder)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(head, padding, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, padding, tmp_path / "gradients")


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
def test_numbers_of_other_activations(activation, tmp_path):
    theirs, checkpoint = make(HEADS[0], tmp_path / "theirs", activation)
    compare_numbers(checkpoint, theirs, "right", tmp_path / "gradients")


def test_decoding(tmp_path):
    theirs, _ = make(HEADS[0], tmp_path / "random")
    compare_decoding(theirs, tmp_path / "trained")


@each_head
def test_saving_back(head, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right")
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch)[0] for model in (again, theirs))
    assert torch.equal(found, expected)


def test_the_base_model_gets_its_head(tmp_path):
    """The published base and large models name no head, and their output layer is tied."""
    make("Model", tmp_path)
    model = load_checkpoint(tmp_path, architecture="BartForConditionalGeneration").model
    again = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    compare_logits(model, again, texts("right"))


def test_a_model_of_ours_is_one_of_theirs(tmp_path):
    ours = Bart(BartConfig(vocab_size=VOCAB, n_positions=POSITIONS, **OUR_SIZES)).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours, {"model_type": "bart", **TOKENS}), tmp_path)
    theirs, report = transformers.BartForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    compare_logits(ours, theirs.eval(), texts("none"), padded=False)
    assert load_checkpoint(tmp_path).model.config == ours.config


def test_the_bias_of_the_logits_is_zero_or_refused(tmp_path):
    make(HEADS[0], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["final_logits_bias"][0, 3] = 1e-3
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="other values are not supported"):
        load_checkpoint(tmp_path)


def test_no_position_beyond_the_table(tmp_path):
    model = make(HEADS[0], tmp_path)[1].model
    long, short = torch.zeros(1, POSITIONS + 1).long(), torch.zeros(1, POSITIONS).long()
    assert model(short, short).shape == (1, POSITIONS, VOCAB)
    for source, target in ((long, short), (short, long)):
        with unchecked(), pytest.raises(LengthError, match=f"0 to {POSITIONS - 1} were learned"):
            model(source, target)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("activation_function", "tanh", "activation_function = 'tanh' is not implemented"),
        ("decoder_ffn_dim", 11, f"encoder_ffn_dim = {FF} and decoder_ffn_dim = 11; only equal"),
        ("decoder_attention_heads", 6, "encoder_attention_heads = 3 and decoder_attention_heads"),
        ("add_final_layer_norm", True, "add_final_layer_norm = True is not implemented"),
        ("architectures", ["BartForCausalLM"], "'BartForCausalLM' of bart is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused(field, value, message, tmp_path):
    make(HEADS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path)

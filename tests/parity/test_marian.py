"""Marian against transformers, through files, in float64 and float32."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.parity.encoder_decoder import (
    FF,
    OUR_SIZES,
    PADDINGS,
    SIZES,
    TOKENS,
    VOCAB,
    compare_decoding,
    compare_logits,
    compare_numbers,
    run_theirs,
    texts,
)
from tests.parity.published import comes_back, files_agree, through_a_file
from tests.parity.weights import randomize
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from qkv.blocks.positions import sinusoids
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.errors import ConfigError, DataError
from qkv.models.marian import Marian, MarianConfig

TARGET_VOCAB = 43
HEADS = ("MTModel", "Model")
OWN = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": TARGET_VOCAB}
VARIANTS = {
    "one table": ({}, (VOCAB, VOCAB)),
    "two tables": (OWN, (VOCAB, TARGET_VOCAB)),
    "three tables": ({**OWN, "tie_word_embeddings": False}, (VOCAB, TARGET_VOCAB)),
}
each = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant, head, folder):
    options, vocabularies = VARIANTS[variant]
    config = transformers.MarianConfig(
        activation_function="swish",
        scale_embedding=True,
        **SIZES,
        **TOKENS,
        **options,
    )
    theirs = getattr(transformers, f"Marian{head}")(config)
    if head == "MTModel":
        theirs.final_logits_bias.normal_()
    return theirs, through_a_file(theirs, folder), vocabularies


@each
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(variant, head, padding, tmp_path):
    theirs, checkpoint, vocabularies = make(variant, head, tmp_path / "theirs")
    folder = tmp_path / "gradients"
    compare_numbers(checkpoint, theirs, padding, folder, vocabularies=vocabularies)


@each
def test_decoding(variant, tmp_path):
    theirs, _, vocabularies = make(variant, "MTModel", tmp_path / "random")
    compare_decoding(theirs, tmp_path / "trained", vocabularies=vocabularies)


@each
@pytest.mark.parametrize("head", HEADS)
def test_saving_back(variant, head, tmp_path):
    theirs, checkpoint, vocabularies = make(variant, head, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right", vocabularies)
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch)[0] for model in (again, theirs))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "options", [{}, {"shared_embeddings": False, "target_vocab_size": TARGET_VOCAB}]
)
def test_a_model_of_ours_is_one_of_theirs(options, tmp_path):
    vocabularies = {"source_vocab_size": VOCAB, "target_vocab_size": VOCAB}
    ours = Marian(MarianConfig(**{**vocabularies, **OUR_SIZES, **options})).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours, {"model_type": "marian", **TOKENS}), tmp_path)
    theirs, report = transformers.MarianMTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    compare_logits(ours, theirs.eval(), texts("none"), padded=False)
    assert load_checkpoint(tmp_path).model.config == ours.config


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_positions_in_a_file_are_checked_and_kept(dtype, tmp_path):
    theirs, _, _ = make("one table", "MTModel", tmp_path)
    tables = {
        f"model.{stack}.embed_positions.weight": theirs.get_submodule(
            f"model.{stack}"
        ).embed_positions.weight
        for stack in ("encoder", "decoder")
    }
    weights = {**load_file(tmp_path / "model.safetensors"), **tables}
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_checkpoint(load_checkpoint(tmp_path), tmp_path / "again")
    files_agree(tmp_path, tmp_path / "again")
    weights["model.decoder.embed_positions.weight"][3, 5] += 0.01
    save_file(weights, tmp_path / "model.safetensors")
    message = r"decoder\.embed_positions\.weight .* differs from the constant for config.json"
    with pytest.raises(DataError, match=message):
        load_checkpoint(tmp_path)


def test_the_table_of_positions_of_published_models():
    theirs = MarianSinusoidalPositionalEmbedding(1024, 1024).create_weight()
    ours = sinusoids(torch.arange(1024), 1024, layout="halves", dtype=torch.float64)
    assert (ours - theirs).abs().max() <= torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("activation_function", "mish", "activation_function = 'mish' is not implemented"),
        ("decoder_ffn_dim", 11, f"encoder_ffn_dim = {FF} and decoder_ffn_dim = 11; only equal"),
        ("decoder_vocab_size", 41, "shared_embeddings need one vocabulary"),
        ("normalize_before", True, "normalize_before = True is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused(field, value, message, tmp_path):
    make("one table", "MTModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path)

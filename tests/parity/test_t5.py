"""T5, versions 1.0 and 1.1, against transformers, through files, in float64 and float32."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.parity.encoder_decoder import (
    DECODER_LAYERS,
    ENCODER_LAYERS,
    FF,
    PADDINGS,
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

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.errors import ConfigError
from qkv.models.t5 import T5, T5Config

HEADS = ("ForConditionalGeneration", "Model")
# Few buckets: all of them, and distances beyond the last, are met in a short text.
BUCKETS = {"relative_attention_num_buckets": 12, "relative_attention_max_distance": 7}
NEW = {"tie_word_embeddings": False}
VARIANTS = {
    "1.0": {},
    "1.1": {**NEW, "feed_forward_proj": "gated-gelu"},
    "1.1 with silu": {**NEW, "feed_forward_proj": "gated-silu"},
    "1.0 with gelu": {"feed_forward_proj": "gelu"},
}
each = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant, head, folder):
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=61,
        num_heads=3,
        d_kv=23,
        d_ff=FF,
        num_layers=ENCODER_LAYERS,
        num_decoder_layers=DECODER_LAYERS,
        **BUCKETS,
        **TOKENS,
        **VARIANTS[variant],
    )
    theirs = getattr(transformers, f"T5{head}")(config)
    if head == HEADS[0] and not config.scale_decoder_outputs:
        # Version 5 of transformers ties them when it makes a model, and not when it loads one.
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, 61))
    through_a_file(theirs, folder)
    for name, parameter in theirs.named_parameters():
        if name.endswith(".q.weight"):  # as nothing divides the scores
            parameter.data.mul_(config.d_kv**-0.5)
    theirs.save_pretrained(folder)
    return theirs, load_checkpoint(folder)


@each
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(variant, head, padding, tmp_path):
    theirs, checkpoint = make(variant, head, tmp_path / "theirs")
    # Distances are the same wherever the padding is.
    compare_numbers(checkpoint, theirs, padding, tmp_path / "gradients", alone=False)


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
def test_decoding(variant, tmp_path):
    theirs, _ = make(variant, HEADS[0], tmp_path / "random")
    compare_decoding(theirs, tmp_path / "trained")


@each
@pytest.mark.parametrize("head", HEADS)
def test_saving_back(variant, head, tmp_path):
    theirs, checkpoint = make(variant, head, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right")
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch)[0] for model in (again, theirs))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
def test_a_config_as_it_was_published(variant, tmp_path):
    """Version 1.1 once said that nothing is tied, and named no scale."""
    theirs, _ = make(variant, HEADS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("scale_decoder_outputs", "tie_word_embeddings", "is_gated_act", "dense_act_fn"):
        del config[name]
    config |= {"n_positions": 512, **VARIANTS[variant]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    # Old files have each name of the embedding, and a bias between texts that nothing reads.
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights[name] = weights["shared.weight"].clone()
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights[unread] = torch.randn(12, 3)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load_checkpoint(tmp_path)
    compare_logits(checkpoint.model, theirs, texts("right"))
    save_checkpoint(checkpoint, tmp_path / "again")
    files_agree(tmp_path, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


def test_a_file_without_an_output_layer_has_the_embedding_in_its_place(tmp_path):
    """Unscaled, as version 1.1 says, and never at random: transformers ties what a file lacks."""
    make("1.1", HEADS[0], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text()) | NEW
    del config["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    compare_logits(checkpoint.model, theirs.eval(), texts("right"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["relu", "gelu_tanh", "geglu_tanh", "swiglu"])
def test_a_model_of_ours_is_one_of_theirs(tied, kind, tmp_path):
    sizes = {"d_model": 61, "n_heads": 3, "d_head": 23, "d_ff": FF, "n_buckets": 12}
    ours = T5(T5Config(vocab_size=VOCAB, **sizes, feed_forward=kind, tied_output=tied)).eval()
    for name, parameter in ours.named_parameters():
        randomize(parameter)
        if name.endswith("query.weight"):
            parameter.data.mul_(ours.config.d_head**-0.5)
    save_checkpoint(Checkpoint(ours), tmp_path)
    theirs, report = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    compare_logits(ours, theirs.eval(), texts("none"), padded=False)
    assert load_checkpoint(tmp_path).model.config == ours.config


def test_long_inputs(tmp_path):
    """Longer than a chunk of queries, and than any distance of a bucket of its own."""
    theirs, checkpoint = make("1.0", HEADS[0], tmp_path)
    source, target = torch.randint(2, VOCAB, (1, 601)), torch.randint(2, VOCAB, (1, 307))
    masks = [torch.ones_like(ids).bool() for ids in (source, target)]
    batch = source, masks[0], target, masks[1]
    compare_logits(checkpoint.model, theirs, batch, padded=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("feed_forward_proj", "gated-relu", "feed_forward_proj = 'gated-relu' is not implemented"),
        ("dense_act_fn", "gelu", "dense_act_fn contradicts feed_forward_proj = 'relu'"),
        ("is_gated_act", True, "is_gated_act contradicts feed_forward_proj = 'relu'"),
        ("is_decoder", True, "is_decoder = True is not implemented for t5"),
        ("architectures", ["T5ForPoetry"], "'T5ForPoetry' of t5 is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused(field, value, message, tmp_path):
    make("1.0", HEADS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if field == "feed_forward_proj":
        del config["is_gated_act"], config["dense_act_fn"]
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path)

"""mT5 against transformers, through files."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
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

from qkv.checkpoints.checkpoint import load_checkpoint, save_checkpoint

HEADS = ("ForConditionalGeneration", "Model")
each_head = pytest.mark.parametrize("head", HEADS)


def make(head, folder, *, tied=False):
    config = transformers.MT5Config(
        vocab_size=VOCAB,
        d_model=61,
        num_heads=3,
        d_kv=23,
        d_ff=FF,
        num_layers=ENCODER_LAYERS,
        num_decoder_layers=DECODER_LAYERS,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=7,
        **TOKENS,
    )
    theirs = getattr(transformers, f"MT5{head}")(config)
    if head == HEADS[0] and not tied:
        # Version 5 of transformers ties them when it makes a model, and not when it loads one.
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, 61))
    through_a_file(theirs, folder)
    for name, parameter in theirs.named_parameters():
        if name.endswith(".q.weight"):  # as nothing divides the scores
            parameter.data.mul_(config.d_kv**-0.5)
    theirs.save_pretrained(folder)
    return theirs, load_checkpoint(folder)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(head, padding, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, padding, tmp_path / "gradients", alone=False)


def test_decoding(tmp_path):
    theirs, _ = make(HEADS[0], tmp_path / "random")
    compare_decoding(theirs, tmp_path / "trained")


@pytest.mark.parametrize("tied", [False, True])
@each_head
def test_saving_back(head, tied, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs", tied=tied)
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right")
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch)[0] for model in (again, theirs))
    assert torch.equal(found, expected)
    compare_logits(checkpoint.model, theirs, batch)


@pytest.mark.parametrize("tied", [False, True])
def test_the_file_says_whether_the_output_layer_is_tied(tied, tmp_path):
    """Version 5 of transformers writes `tie_word_embeddings: true` either way."""
    make(HEADS[0], tmp_path / "theirs", tied=tied)
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["tie_word_embeddings"]
    assert ("lm_head.weight" in load_file(tmp_path / "theirs" / "model.safetensors")) is not tied
    checkpoint = load_checkpoint(tmp_path / "theirs")
    model = checkpoint.model
    assert torch.equal(model.head.weight, model.embedding.weight) is tied
    # What is trained is written, and moves nothing else.
    before = model.embedding.weight.clone()
    model.head.weight.data += 1
    assert torch.equal(model.embedding.weight, before)
    save_checkpoint(checkpoint, tmp_path / "trained")
    theirs, report = transformers.MT5ForConditionalGeneration.from_pretrained(
        tmp_path / "trained", output_loading_info=True
    )
    assert not any(report.values())
    assert torch.equal(theirs.lm_head.weight, model.head.weight)
    assert torch.equal(theirs.shared.weight, before)


def test_a_config_as_it_was_published(tmp_path):
    theirs, _ = make(HEADS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("is_gated_act", "dense_act_fn"):
        config.pop(name, None)
    config |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(tmp_path)
    compare_logits(checkpoint.model, theirs, texts("right"))
    save_checkpoint(checkpoint, tmp_path / "again")
    files_agree(tmp_path, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config

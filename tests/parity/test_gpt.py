"""GPT-2 against transformers, through files, in float64 and float32."""

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tests.parity.causal import (
    CLASSES,
    LAYERS,
    PAD,
    PADDINGS,
    VOCAB,
    compare_decoding,
    compare_logits,
    compare_numbers,
    run_theirs,
    texts,
)
from tests.parity.published import comes_back, files_agree, through_a_file
from tests.parity.reference import agree
from tests.parity.weights import randomize

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.models.gpt import GPT, GPTConfig

HEADS = ("LMHeadModel", "Model", "ForSequenceClassification")
each = pytest.mark.parametrize("head", HEADS)


def config(**options):
    sizes = {"n_embd": 22, "n_head": 11, "n_layer": LAYERS, "n_inner": 29, "n_positions": 41}
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
    return transformers.GPT2Config(
        vocab_size=VOCAB, num_labels=CLASSES, **{**sizes, **tokens, **options}
    )


def make(head, folder, **options):
    theirs = getattr(transformers, f"GPT2{head}")(config(**options))
    return theirs, through_a_file(theirs, folder)


@each
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(head, padding, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, "dropout", padding, tmp_path / "gradients")


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_pytorch_tanh"])
def test_activations_and_untied_output(activation, tmp_path):
    theirs, checkpoint = make(
        "LMHeadModel",
        tmp_path / "theirs",
        activation_function=activation,
        tie_word_embeddings=False,
        n_inner=None,
        layer_norm_epsilon=1e-2,
    )
    compare_numbers(checkpoint, theirs, "dropout", "left", tmp_path / "gradients")


def test_decoding(tmp_path):
    theirs, checkpoint = make("LMHeadModel", tmp_path)
    compare_decoding(checkpoint.model, theirs)


@each
def test_saving_back(head, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    batch = texts("right")
    with torch.no_grad():
        found, expected = (run_theirs(model, *batch, "right")[0] for model in (again, theirs))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_ours_is_one_of_theirs(tied, tmp_path):
    ours = GPT(
        GPTConfig(
            vocab_size=VOCAB,
            d_model=22,
            n_heads=11,
            d_ff=29,
            n_layers=LAYERS,
            n_positions=41,
            tied_output=tied,
        )
    ).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours), tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(theirs) is transformers.GPT2LMHeadModel
    assert not any(report.values())
    ids, _ = texts("none")
    compare_logits(ours, theirs.eval(), ids)
    assert load_checkpoint(tmp_path).model.config == ours.config


def test_files_of_old_have_no_prefix_and_have_masks(tmp_path):
    theirs, _ = make("LMHeadModel", tmp_path / "new")
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in dict(open_weights(tmp_path / "new")).items()
    }
    for layer in range(LAYERS):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 41, 41, dtype=torch.uint8).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    theirs.config.save_pretrained(tmp_path / "old")
    save_file(tensors, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    checkpoint = load_checkpoint(tmp_path / "old")
    ids, _ = texts("none")
    compare_logits(checkpoint.model, theirs, ids)
    save_checkpoint(checkpoint, tmp_path / "back")
    files_agree(tmp_path / "old", tmp_path / "back")


def test_a_classifier_on_a_language_model(tmp_path):
    theirs, _ = make("LMHeadModel", tmp_path / "theirs")
    checkpoint = load_checkpoint(
        tmp_path / "theirs",
        architecture="GPT2ForSequenceClassification",
        new=["classifier"],
        labels=["a", "b", "c"],
    )
    ids, mask = texts("right")
    with torch.no_grad():
        ours = checkpoint.model(ids, token_mask=mask)
    assert ours.shape == (len(ids), 3)
    save_checkpoint(checkpoint, tmp_path / "ours")
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            logits = theirs(ids, attention_mask=mask.long()).logits
            return {"logits": (ours(ids, token_mask=mask), logits)}

    agree(numbers, checkpoint.model, theirs.eval())

"""mBART, and BART and Marian with the other scale of embeddings, against transformers."""

import pytest
import torch
import transformers
from tests.parity.encoder_decoder import (
    OUR_SIZES,
    PADDINGS,
    POSITIONS,
    SIZES,
    START,
    TOKENS,
    VOCAB,
    compare_decoding,
    compare_logits,
    compare_numbers,
    run_theirs,
    texts,
)
from tests.parity.published import comes_back, through_a_file
from tests.parity.reference import agree
from tests.parity.weights import randomize
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.models.bart import Bart, BartConfig

HEADS = ("ForConditionalGeneration", "Model")
each_head = pytest.mark.parametrize("head", HEADS)


def make(head, folder, family="MBart", **options):
    config = getattr(transformers, f"{family}Config")(
        **{**SIZES, **TOKENS, "scale_embedding": True, **options}
    )
    theirs = getattr(transformers, f"{family}{head}")(config)
    return theirs, through_a_file(theirs, folder)


@each_head
@pytest.mark.parametrize("padding", PADDINGS)
def test_numbers(head, padding, tmp_path):
    theirs, checkpoint = make(head, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, padding, tmp_path / "gradients")


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "swish"])
def test_numbers_without_scale_and_of_other_activations(activation, tmp_path):
    options = {"activation_function": activation, "scale_embedding": False}
    theirs, checkpoint = make(HEADS[0], tmp_path / "theirs", **options)
    compare_numbers(checkpoint, theirs, "right", tmp_path / "gradients")


@pytest.mark.parametrize(
    ("family", "head", "scaled"), [("Bart", HEADS[0], True), ("Marian", "MTModel", False)]
)
def test_the_other_scale_of_embeddings(family, head, scaled, tmp_path):
    options = {"scale_embedding": scaled, "activation_function": "swish"}
    theirs, checkpoint = make(head, tmp_path / "theirs", family, **options)
    compare_numbers(checkpoint, theirs, "right", tmp_path / "gradients")
    theirs, checkpoint = make(head, tmp_path / "again", family, **options)
    comes_back(checkpoint, type(theirs), tmp_path / "again", tmp_path / "ours")


@pytest.mark.parametrize("family", ["Bart", "MBart", "Marian"])
def test_what_training_alone_drops_is_no_reason_to_refuse(family, tmp_path):
    shares = {
        "encoder_layerdrop": 0.1,
        "decoder_layerdrop": 0.2,
        "activation_dropout": 0.3,
        "attention_dropout": 0.4,
        "classifier_dropout": 0.5,
    }
    head = "MTModel" if family == "Marian" else HEADS[0]
    theirs, checkpoint = make(head, tmp_path / "theirs", family, **shares)
    assert checkpoint.model.config.attention_dropout == 0.4
    assert getattr(checkpoint.model.config, "activation_dropout", 0.3) == 0.3
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


def test_a_model_of_ours_is_one_of_theirs(tmp_path):
    config = BartConfig(
        vocab_size=VOCAB, n_positions=POSITIONS, norm_first=True, scaled_embedding=True, **OUR_SIZES
    )
    ours = Bart(config).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours, TOKENS), tmp_path)
    theirs, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(theirs) is transformers.MBartForConditionalGeneration
    assert not any(report.values())
    compare_logits(ours, theirs.eval(), texts("none"), padded=False)
    assert load_checkpoint(tmp_path).model.config == ours.config


def test_labels_are_shifted_around_the_code_of_the_language(tmp_path):
    """mBART's targets end in the language's code, which its decoder begins with."""
    theirs, checkpoint = make(HEADS[0], tmp_path)
    labels = torch.tensor([[5, 7, 2, START], [6, 2, START, 1]])
    target = torch.tensor([[START, 5, 7, 2], [START, 6, 2, START]])
    assert torch.equal(shift_tokens_right(labels, 1), target)
    source, mask, *_ = texts("none")

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            expected = theirs(source[:2], mask[:2].long(), labels=labels).logits
            return {"logits": (ours(source[:2], target), expected)}

    agree(numbers, checkpoint.model, theirs)

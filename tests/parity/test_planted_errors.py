"""Errors that are easily made and hardly seen: the comparison of every family must find them.

Each is planted in our model after it was loaded, and each precision must find it alone.
"""

import pytest
import torch
from tests.parity import (
    causal,
    encoder_decoder,
    test_bart,
    test_bert,
    test_gpt,
    test_llama,
    test_marian,
    test_mbart,
    test_mt5,
    test_t5,
    test_torch_stacks,
    test_vit,
)
from tests.parity.reference import BOTH, agree

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import LayerNorm, RMSNorm
from qkv.blocks.stack import Stack

WRITES = test_bart.HEADS[0]
OTHER = {"gelu": "gelu_tanh", "gelu_tanh": "gelu", "geglu_tanh": "geglu", "geglu": "geglu_tanh"}


def wrong_epsilon(model):
    """1e-5 where it is smaller, and 1e-6 where it is not: the two that are mixed up."""
    for module in model.modules():
        if isinstance(module, (LayerNorm, RMSNorm)):
            module.eps = 1e-5 if module.eps < 1e-5 else 1e-6


def wrong_gelu(model):
    """tanh's approximation for the exact GELU, and the reverse."""
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.kind = OTHER[module.kind]


def wrong_scale(model):
    """Scores that are too large by 1e-5 of themselves."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.query.register_forward_hook(lambda _, __, queries: queries * (1 + 1e-5))


def causal_family(make, head, embedded):
    def compare(folder, plant, precisions):
        theirs, checkpoint = make(head, folder / "theirs")
        plant(checkpoint.model)
        places = folder / "gradients"
        causal.compare_numbers(checkpoint, theirs, embedded, "right", places, precisions)

    return compare


def encoder_decoder_family(make):
    def compare(folder, plant, precisions):
        theirs, checkpoint = make(folder / "theirs")[:2]
        plant(checkpoint.model)
        encoder_decoder.compare_numbers(
            checkpoint, theirs, "right", folder / "gradients", precisions=precisions
        )

    return compare


def bert_family(family):
    def compare(folder, plant, precisions):
        _, theirs, checkpoint = test_bert.make(family, "ForMaskedLM", folder / "theirs")
        plant(checkpoint.model)
        numbers = test_bert.numbers_of(
            family, "ForMaskedLM", "right", checkpoint.config, folder / "gradients"
        )
        agree(numbers, checkpoint.model, theirs, precisions)

    return compare


def vit_family(family):
    def compare(folder, plant, precisions):
        head = "ForImageClassification"
        _, theirs, checkpoint = test_vit.make(family, head, folder / "theirs")
        plant(checkpoint.model)
        images = torch.randn(test_vit.B, test_vit.C, test_vit.SQUARE, test_vit.SQUARE)
        places = folder / "gradients"
        test_vit.compare_numbers(checkpoint, theirs, head, images, places, precisions=precisions)

    return compare


def torch_family(norm_first):
    def compare(folder, plant, precisions):
        kind = norm_first, "gelu"
        ours = Stack(test_torch_stacks.config(*kind), 2)
        plant(ours)
        test_torch_stacks.compare_encoders(
            ours,
            test_torch_stacks.encoder(2, *kind),
            test_torch_stacks.stack_pairs,
            True,
            precisions,
        )

    return compare


def llama_family(variant):
    def make(head, folder):
        return test_llama.make(variant, head, folder)

    return causal_family(make, "ForCausalLM", "embedding")


def t5_family(version):
    return encoder_decoder_family(lambda folder: test_t5.make(version, WRITES, folder))


NO_GELU = (wrong_epsilon, wrong_scale)
ALL = (*NO_GELU, wrong_gelu)
FAMILIES = {
    "torch, post-norm": (torch_family(False), ALL),
    "torch, pre-norm": (torch_family(True), ALL),
    "bert": (bert_family("Bert"), ALL),
    "roberta": (bert_family("Roberta"), ALL),
    "distilbert": (bert_family("DistilBert"), ALL),
    "gpt2": (causal_family(test_gpt.make, "LMHeadModel", "dropout"), ALL),
    "llama": (llama_family("llama"), NO_GELU),
    "mistral": (llama_family("mistral, windows"), NO_GELU),
    "qwen2": (llama_family("qwen2"), NO_GELU),
    "bart": (encoder_decoder_family(lambda folder: test_bart.make(WRITES, folder)), ALL),
    "mbart": (encoder_decoder_family(lambda folder: test_mbart.make(WRITES, folder)), ALL),
    "marian": (
        encoder_decoder_family(lambda folder: test_marian.make("one table", "MTModel", folder)),
        NO_GELU,
    ),
    "t5": (t5_family("1.0"), NO_GELU),
    "t5 1.1": (t5_family("1.1"), ALL),
    "mt5": (encoder_decoder_family(lambda folder: test_mt5.make(WRITES, folder)), ALL),
    "vit": (vit_family("ViT"), ALL),
    "deit": (vit_family("DeiT"), ALL),
}
PLANTED = [(family, plant) for family, (_, plants) in FAMILIES.items() for plant in plants]


@pytest.mark.parametrize("precision", BOTH, ids=str)
@pytest.mark.parametrize(("family", "plant"), PLANTED)
def test_a_planted_error_is_found(family, plant, precision, tmp_path):
    compare, _ = FAMILIES[family]
    found = "apart in float64" if precision == torch.float64 else "error .*; theirs"
    with pytest.raises(AssertionError, match=found):
        compare(tmp_path, plant, (precision,))

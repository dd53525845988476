"""How GPT-2 may scale its scores, against transformers."""

import pytest
import torch
import transformers
from tests.helpers import assert_as_exact
from tests.parity.causal import (
    LAYERS,
    PAD,
    VOCAB,
    compare_decoding,
    compare_logits,
    compare_numbers,
    texts,
)
from tests.parity.published import comes_back, through_a_file
from tests.parity.reference import in_float64
from tests.parity.weights import randomize

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.models.gpt import GPT, GPTConfig, ScaledAttention

SIZES = {"n_embd": 66, "n_head": 3, "n_layer": LAYERS, "n_inner": 29, "n_positions": 41}
TOKENS = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}
NOT_BY_ROOT = {"scale_attn_weights": False}
VARIANTS = {
    "by layer": BY_LAYER,
    "not by the root": NOT_BY_ROOT,
    "by layer alone": BY_LAYER | NOT_BY_ROOT,
    "in another order": {"reorder_and_upcast_attn": True},
    "as Stanford's": BY_LAYER | {"reorder_and_upcast_attn": True},
}
each = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant, folder):
    config = transformers.GPT2Config(vocab_size=VOCAB, **SIZES, **TOKENS, **VARIANTS[variant])
    theirs = transformers.GPT2LMHeadModel(config)
    return theirs, through_a_file(theirs, folder)


@each
@pytest.mark.parametrize("padding", ["right", "left"])
def test_numbers(variant, padding, tmp_path):
    theirs, checkpoint = make(variant, tmp_path / "theirs")
    compare_numbers(checkpoint, theirs, "dropout", padding, tmp_path / "gradients")


@each
def test_decoding_and_saving_back(variant, tmp_path):
    theirs, checkpoint = make(variant, tmp_path / "theirs")
    compare_decoding(checkpoint.model, theirs)
    comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")


def test_which_layers_are_scaled_by_what():
    def factors(**options):
        model = GPT(GPTConfig(d_model=27, n_heads=3, n_layers=3, vocab_size=7, **options))
        attentions = [block.self_attention for block in model.stack.blocks]
        return [one.factor if isinstance(one, ScaledAttention) else 1 for one in attentions]

    assert factors() == [1, 1, 1]
    assert factors(divided_by_layer=True) == [1, 1 / 2, 1 / 3]
    assert factors(divided_by_root=False) == [3, 3, 3]
    assert factors(divided_by_root=False, divided_by_layer=True) == [3, 3 / 2, 1]


def test_scores_in_another_order_differ_by_rounding_alone(tmp_path):
    """It is the precision of 16-bit scores; in float32 theirs, run so, has our numbers."""
    _, checkpoint = make("as Stanford's", tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert theirs.transformer.h[0].attn.reorder_and_upcast_attn
    ids, _ = texts("none")
    plain = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)  # theirs refuses float64
    with torch.no_grad():
        exact = in_float64(plain.eval())(ids).logits
        assert_as_exact(checkpoint.model(ids), theirs.eval()(ids).logits, exact)


def test_a_model_of_ours_is_one_of_theirs(tmp_path):
    sizes = {"d_model": 66, "n_heads": 3, "d_ff": 29, "n_layers": LAYERS, "n_positions": 41}
    scores = {"divided_by_root": False, "divided_by_layer": True}
    ours = GPT(GPTConfig(vocab_size=VOCAB, **sizes, **scores)).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids, _ = texts("none")
    compare_logits(ours, theirs.eval(), ids)
    assert load_checkpoint(tmp_path).model.config == ours.config

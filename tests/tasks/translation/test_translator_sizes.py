"""The kinds of new translators: which model each is, and that its files bring it back."""

import pytest
import torch

import qkv
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.models.marian import Marian
from qkv.models.rnn import RNNSeq2Seq
from qkv.models.transformer import Transformer
from qkv.tasks.pretrained import Loaded
from qkv.tasks.translation import Translator
from qkv.tasks.translator_sizes import TranslatorSizes

SMALL = {"d_model": 12, "n_heads": 2, "d_ff": 22, "n_encoder_layers": 1, "n_decoder_layers": 1}
KINDS = {
    "2017": ({}, Marian),
    "pre-norm": ({"norm_first": True}, Transformer),
    "rms": ({"norm": "rms"}, Transformer),
    "rotary": ({"norm_first": True, "rotary_base": 100.0}, Transformer),
    "no attention": ({"kind": "recurrent"}, RNNSeq2Seq),
    "bahdanau": ({"kind": "bahdanau"}, RNNSeq2Seq),
    "luong": ({"kind": "luong"}, RNNSeq2Seq),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_built_saved_and_loaded_with_equal_weights(name, tmp_path):
    options, expected = KINDS[name]
    tokenizer = Tokenizer.train_characters(["a red house", "ein rotes haus"])
    torch.manual_seed(0)
    model = TranslatorSizes(**SMALL, **options).build(tokenizer.vocab_size, 17)
    assert type(model) is expected
    Translator(Loaded(model, tokenizer), max_length=17).save(tmp_path / "made")
    again = qkv.load(tmp_path / "made").model
    assert (type(again), again.config) == (expected, model.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_recurrent_kinds_differ_in_their_attention():
    made = {k: TranslatorSizes(**SMALL, kind=k).build(31, 17) for k in ("recurrent", "luong")}
    assert made["recurrent"].decoder.attention is None
    assert type(made["luong"].decoder.attention).__name__ == "GeneralAttention"
    additive = TranslatorSizes(**SMALL, kind="bahdanau").build(31, 17)
    assert type(additive.decoder.attention).__name__ == "AdditiveAttention"
    assert additive.decoder.attend_first
    assert not made["luong"].decoder.attend_first


def test_rotary_positions_take_the_place_of_sinusoids():
    sizes = TranslatorSizes(**SMALL, rotary_base=100.0)
    model = sizes.build(31, 17).eval()
    assert model.encoder.blocks[0].self_attention.rotary is not None
    assert model.decoder.blocks[0].cross_attention.rotary is None
    tokens = torch.full((1, 5), 7)
    embedded = model.embed_source(tokens, torch.arange(5))
    assert torch.equal(embedded[:, :1].expand_as(embedded), embedded)


@pytest.mark.parametrize("options", [{"norm": "rms"}, {"norm_first": True}, {"rotary_base": 1e4}])
def test_a_recurrent_kind_has_no_options_of_transformers(options):
    with pytest.raises(ConfigError, match=r"kind = luong with norm = .* expected their defaults"):
        TranslatorSizes(kind="luong", **options)

"""A translator: texts in, texts out, in the order of the input, saved and loaded whole."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.translation import Translator, evaluating, load_translator, save_translator
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.optim import constant

PAIRS = [("abc", "cba"), ("b", "b"), ("cabba", "abbac"), ("bc", "cb"), ("aacb", "bcaa")]


def make_translator(kind: str) -> Translator:
    torch.manual_seed(0)
    source = Tokenizer.train_characters(text for text, _ in PAIRS)
    target = Tokenizer.train_characters(text for _, text in PAIRS)
    sizes = {"source_vocab_size": source.vocab_size, "target_vocab_size": target.vocab_size}
    if kind == "rnn":
        model: nn.Module = RNNSeq2Seq(RNNConfig(**sizes, d_embedding=6, d_hidden=10))
    else:
        config = TransformerConfig(
            **sizes,
            d_model=24,
            n_heads=3,
            d_ff=40,
            n_encoder_layers=1,
            n_decoder_layers=1,
            dropout=0.0,
        )
        model = Transformer(config)
    return Translator(model, source, target, max_length=7)


@pytest.fixture(params=["rnn", "transformer"])
def translator(request: pytest.FixtureRequest) -> Translator:
    return make_translator(request.param)


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def trained(request: pytest.FixtureRequest) -> Translator:
    translator = make_translator(request.param)
    train(
        translator.model,
        translator.batches(PAIRS, max_tokens=50),
        pair_loss,
        steps=120,
        learning_rate=1e-2,
        schedule=constant(warmup=20),
        device="cpu",
    )
    return translator


def test_outputs_come_in_the_order_of_the_inputs_whatever_the_batches(trained: Translator):
    texts = [text for text, _ in PAIRS]
    alone = [trained([text])[0] for text in texts]
    assert trained(texts) == alone
    assert trained(texts, rows=2) == alone
    assert len(set(alone)) > 1  # else the order could not show


def test_dropout_is_off_while_translating_and_the_mode_is_put_back(translator: Translator):
    translator.model.train()
    assert len({tuple(translator(["abc", "cab"])) for _ in range(3)}) == 1
    assert translator.model.training
    with evaluating(translator.model):
        assert not translator.model.training
    assert translator.model.training


def test_it_learns_to_reverse_and_scores_itself(trained: Translator):
    assert trained.exact_match(PAIRS) == 1
    assert trained.exact_match([*PAIRS, ("b", "c")]) == pytest.approx(5 / 6)


def test_an_alignment_has_a_row_for_each_output_token(trained: Translator):
    alignment = trained.align("cabba")
    assert alignment.source == list("cabba")
    assert alignment.output[-1] == "</s>"
    assert "".join(alignment.output[:-1]) == trained(["cabba"])[0]
    name = next(name for name in alignment.weights if name.startswith("decoder"))
    name = name.replace("self_attention", "cross_attention")
    weights = alignment.weights[name]
    assert weights.shape[2:] == (len(alignment.output), 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


def test_saved_and_loaded_it_is_the_same(translator: Translator, tmp_path):
    save_translator(translator, tmp_path / "new" / "folder")
    loaded = load_translator(tmp_path / "new" / "folder")
    for name, tensor in translator.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    texts = [text for text, _ in PAIRS]
    assert loaded(texts) == translator(texts)
    assert not loaded.model.training


def test_what_is_not_a_saved_translator_is_refused(translator: Translator, tmp_path):
    with pytest.raises(DataError, match="holds no saved translator"):
        load_translator(tmp_path)
    save_translator(translator, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "oracle"}))
    with pytest.raises(DataError, match="model_type 'oracle'; expected transformer or rnn"):
        load_translator(tmp_path)
    with pytest.raises(ConfigError, match="a Linear cannot be saved"):
        save_translator(Translator(nn.Linear(1, 1), translator.source, translator.target), tmp_path)


def test_weights_of_another_shape_are_refused_by_name(translator: Translator, tmp_path):
    save_translator(translator, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.bias" if "head.bias" in weights else "encoder.blocks.0.feed_forward.up.bias"]
    save_file(weights | {"stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"missing \['.*bias.*unknown \['stray'\]"):
        load_translator(tmp_path)

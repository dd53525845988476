"""`qkv train` on plain text: what it reads, runs that are stopped, and what is written."""

import itertools
import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import assert_as_exact, unchecked

import qkv.tasks.generation.recipe as recipes
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.tasks.generation.data import Corpus, read_corpus
from qkv.tasks.generation.generator import Generator
from qkv.tasks.generation.recipe import Decoder, begin_with_stop, train_language_model
from qkv.tasks.recipe import Training

TEXT = "abcab cabca bcabc " * 23
MODEL = Decoder(context=11, d_model=24, n_heads=6, n_kv_heads=2, d_ff=29, n_layers=1)
TRAINING = {"steps": 5, "batch_size": 3, "learning_rate": 1e-2, "warmup": 0.0, "save_every": 2}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def fit(text):
    def run(output, *, data=None, tokenizer="characters", vocab_size=None, **training):
        with unchecked():
            train_language_model(
                output=output,
                data=Corpus(**{"train": str(text)} | (data or {})),
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                model=MODEL,
                training=Training(**TRAINING | training),
                device="cpu",
            )
        return output

    return run


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [("characters", None), ("bpe", 262)])
def test_it_learns_and_writes_what_it_did(fit, tmp_path, tokenizer, vocab_size):
    made = fit(tmp_path / "made", tokenizer=tokenizer, vocab_size=vocab_size, steps=150)
    results = json.loads((made / "results.json").read_text())
    scores = results["validation"]
    assert scores["characters"] == round(0.1 * len(TEXT)) + 1
    assert scores["bits_per_character"] < 1.7  # of three letters and a space, drawn evenly: 2
    assert results["test"] is None
    assert results["vocabulary"] == (4 + 4 if vocab_size is None else 262)
    generator = Generator.load(made)
    assert generator.context == 11
    config = json.loads((made / "config.json").read_text())
    stop = generator.tokenizer.stop
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["bos_token_id"] == config["eos_token_id"] == stop
    assert generator.encode("ab")[0] == stop
    rest = [TEXT[round(0.9 * len(TEXT)) :]]
    again = generator.evaluate(rest).loss
    generator.model.double()
    losses = again, scores["loss"], generator.evaluate(rest).loss
    assert_as_exact(*torch.tensor(losses, dtype=torch.float64))


def test_the_same_weights_have_one_score(fit, tmp_path, capsys):
    """What chose the best weights is what the finished model is reported with."""
    made = fit(tmp_path / "made", steps=9, evaluate_every=3)
    told = capsys.readouterr().out
    step = re.search(r"the weights are those of step (\d+), the best by log-probability", told)[1]
    score = re.search(rf"step {step} of 9, validation: log-probability (-[\d.]+)", told)[1]
    after = json.loads((made / "results.json").read_text())["validation"]["loss"]
    assert score == f"{-after:.4f}"


def test_a_run_that_was_stopped_ends_as_one_that_was_not(fit, tmp_path, monkeypatch):
    whole = load_file(fit(tmp_path / "whole") / "model.safetensors")
    calls, original = itertools.count(1), recipes.causal_loss

    def loss(*arguments):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "causal_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "stopped")
    stopped = load_file(fit(tmp_path / "stopped") / "model.safetensors")
    for name, tensor in stopped.items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 300}, "tokenizer = characters with vocab_size = 300; expected .* none for"),
        ({"tokenizer": "bpe"}, "tokenizer = bpe with vocab_size = None; expected a vocab_size for"),
        ({"smoothing": 0.1}, r"smoothing = 0\.1; expected training\.batch_size, in contexts"),
        ({"batch_size": None, "max_tokens": 9}, r"training\.max_tokens = 9"),
    ],
)
def test_recipes_that_cannot_be_followed(fit, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "made", **options)


def test_a_tokenizer_that_begins_with_stop_says_so_in_its_files(tmp_path):
    plain = Tokenizer.train_bpe([TEXT], 270)
    made = begin_with_stop(plain)
    made.save(tmp_path)
    for one in (made, Tokenizer.load(tmp_path)):
        assert one.add_special_tokens(one.encode("ab c")).ids == [plain.stop, *plain.encode("ab c")]
        assert one.stop == plain.stop
        assert one.decode(one.encode("ab c")) == "ab c"


def test_one_text_is_cut_and_many_are_held_out(text, tmp_path):
    parts = Corpus(train=str(text), validation_share=0.25).parts()
    assert parts.train[0] + parts.validation[0] == TEXT
    assert len(parts.validation[0]) == round(0.25 * len(TEXT))
    table = tmp_path / "mine.jsonl"
    rows = [f"row {i}" for i in range(13)]
    table.write_text("".join(json.dumps({"said": row}) + "\n" for row in rows))
    parts = Corpus(train=str(table), column="said", test=str(text)).parts()
    assert sorted([*parts.train, *parts.validation]) == sorted(rows)
    assert len(parts.validation) == 1
    assert parts.test == [TEXT]
    few = Corpus(train=str(table), column="said", limit=5).parts()
    assert len(few.train) == 5
    assert few.checksum != parts.checksum


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"data\.limit = 0; expected at least 1 of the texts"),
        ({"validation_share": 0.0}, r"data\.validation_share = 0\.0; expected between 0 and 1"),
        ({"train": "a.txt", "test": "a.txt"}, r"twice; expected other texts for each"),
        ({"train": "names", "validation": "names:train"}, r"twice; expected other texts for each"),
    ],
)
def test_data_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Corpus(**options)


def test_what_is_no_source_is_said(tmp_path):
    with pytest.raises(DataError, match=r"'nowhere' is no file .* named set \(docstrings, tiny"):
        read_corpus("nowhere", "train")
    with pytest.raises(DataError, match="no split 'rest' of docstrings"):
        read_corpus("docstrings:rest", "train")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt has no text: expected at least one"):
        read_corpus(str(tmp_path / "empty.txt"), "train")


def test_shakespeare_is_one_text():
    if not os.environ.get("QKV_DATA"):
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    parts = Corpus(train="tinyshakespeare").parts()
    assert [len(texts) for texts in parts] == [1, 1, 0]
    assert (len(parts.train[0]), len(parts.validation[0])) == (1_003_854, 111_540)

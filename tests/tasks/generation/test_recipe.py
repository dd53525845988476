"""`qkv train` on plain text: what it reads, runs that are stopped, and what is written."""

import itertools
import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import assert_as_exact, unchecked

import qkv.tasks.generation as page
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.generation import TASK, DecoderSizes, GenerationRecipe, Generator, fresh_generator
from qkv.tasks.pretrained import save
from qkv.tasks.splits import DataConfig, Source, read_splits
from qkv.tasks.train import train
from qkv.training.settings import Training

TEXT = "abcab cabca bcabc " * 23
SIZES = DecoderSizes(d_model=24, n_heads=6, n_kv_heads=2, d_ff=29, n_layers=1)
TRAINING = {"steps": 5, "batch_size": 3, "learning_rate": 1e-2, "warmup": 0.0, "save_every": 2}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def fit(text):
    """Train into a folder; returns it."""

    def run(output, *, training=None, **fields):
        recipe = {
            "output": output,
            "data": DataConfig(train=(str(text),)),
            "context": 11,
            "training": Training(**TRAINING | (training or {})),
            "device": "cpu",
        }
        if fields.get("base") is None:
            recipe["model"] = SIZES
        with unchecked():
            train(TASK, GenerationRecipe(**recipe | fields))
        return output

    return run


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [("characters", None), ("bpe", 262)])
def test_it_learns_and_writes_what_it_did(fit, tmp_path, tokenizer, vocab_size):
    made = fit(
        tmp_path / "made", tokenizer=tokenizer, vocab_size=vocab_size, training={"steps": 150}
    )
    results = json.loads((made / "results.json").read_text())
    scores = results["validation"]
    assert scores["characters"] == round(0.1 * len(TEXT)) + 1
    assert scores["bits_per_character"] < 1.7  # of three letters and a space, drawn evenly: 2
    assert "test" not in results
    assert results["vocab_size"] == (4 + 4 if vocab_size is None else 262)
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
    made = fit(tmp_path / "made", training={"steps": 9, "evaluate_every": 3})
    printed = capsys.readouterr().out
    step = re.search(r"the weights are those of step (\d+), the best by log-probability", printed)[
        1
    ]
    score = re.search(rf"step {step} of 9, validation: log-probability (-[\d.]+)", printed)[1]
    after = json.loads((made / "results.json").read_text())["validation"]["loss"]
    assert score == f"{-after:.4f}"


def test_a_run_that_was_stopped_ends_as_one_that_was_not(fit, text, tmp_path, monkeypatch):
    whole = load_file(fit(tmp_path / "whole") / "model.safetensors")
    calls, original = itertools.count(1), page.causal_loss

    def loss(*arguments):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(page, "causal_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "stopped")
    text.write_text(TEXT[1:])
    with pytest.raises(ConfigError, match="data_checksum"):
        fit(tmp_path / "stopped")
    text.write_text(TEXT)
    stopped = load_file(fit(tmp_path / "stopped") / "model.safetensors")
    for name, tensor in stopped.items():
        assert torch.equal(tensor, whole[name]), name


def test_a_pattern_of_layers_is_learned_and_kept(fit, tmp_path):
    layers = ("gated_delta", "window", "attention")
    sizes = DecoderSizes(d_model=24, n_heads=6, d_ff=29, n_layers=4, layers=layers, window=5)
    made = fit(tmp_path / "made", model=sizes, training={"steps": 60})
    assert json.loads((made / "results.json").read_text())["validation"]["bits_per_character"] < 1.9
    config = json.loads((made / "config.json").read_text())
    assert (config["model_type"], config["layers"]) == ("qkv_hybrid", list(layers))
    generator = Generator.load(made)
    assert generator.model.config.layers == layers
    assert generator.context == 11
    kinds = [type(block.self_attention).__name__ for block in generator.model.stack.blocks]
    assert kinds == [
        "GatedDeltaAttention",
        "SlidingWindowAttention",
        "MultiHeadAttention",
        "GatedDeltaAttention",
    ]
    assert generator(["abc"], max_length=5)[0].text


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": ()}, "expected a list of at least one of attention"),
        ({"layers": ("mamba",)}, r"layers\[0\] = 'mamba' is unknown"),
        ({"window": 5}, "window = 5 with layers = attention"),
    ],
)
def test_a_pattern_that_cannot_be_built_is_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        DecoderSizes(**sizes)


@pytest.fixture
def base(tmp_path):
    """A language model of other sizes, for 13 tokens."""
    torch.manual_seed(3)
    sizes = DecoderSizes(d_model=12, n_heads=2, d_ff=17, n_layers=2)
    save(fresh_generator([TEXT], sizes, 13, 270).loaded, tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("lora", [False, True])
def test_a_base_is_trained_further_with_its_sizes_and_tokenizer(fit, base, tmp_path, lora):
    finetuning = FineTuning()
    if lora:
        finetuning = FineTuning(train="lora", lora=LoRAConfig(rank=3, train=()))
    made = fit(
        tmp_path / "made",
        base=str(base),
        finetuning=finetuning,
        training={"steps": 60, "learning_rate": 2e-2},
        context=64,
    )
    before, after = Generator.load(base), Generator.load(made)
    assert after.context == 13
    assert after.tokenizer.files == before.tokenizer.files
    assert after.model.config == before.model.config
    held_out = [TEXT[round(0.9 * len(TEXT)) :]]
    gain = before.evaluate(held_out).loss - after.evaluate(held_out).loss
    assert gain > (0.1 if lora else 1)  # the output layer is tied, and no part of LoRA
    results = json.loads((made / "results.json").read_text())
    whole, trained = results["parameters"], results["trained_parameters"]
    adapter = tmp_path / "made.training" / "adapter" / "adapter_config.json"
    if lora:
        assert 0 < trained < whole / 3
        assert json.loads(adapter.read_text())["base_model_name_or_path"] == str(base)
    else:
        assert trained == whole
        assert not adapter.exists()


def test_what_cannot_be_beside_a_base(fit, base, tmp_path):
    for fields, names in (
        ({"model": SIZES}, "model"),
        ({"tokenizer": "bpe", "vocab_size": 270}, "tokenizer, vocab_size"),
        ({"finetuning": FineTuning(train="scratch")}, "finetuning.train"),
    ):
        message = f"base = {base} with {names}; expected no other value than the default"
        with pytest.raises(ConfigError, match=re.escape(message)):
            fit(tmp_path / "made", base=str(base), **fields)
    with pytest.raises(ConfigError, match="output and base are both"):
        fit(base, base=str(base))
    with pytest.raises(ConfigError, match=r"base = null with finetuning\.train = lora"):
        fit(tmp_path / "made", finetuning=FineTuning(train="lora"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 300}, "tokenizer = characters with vocab_size = 300; expected .* none for"),
        ({"tokenizer": "bpe"}, "tokenizer = bpe with vocab_size = None; expected a vocab_size for"),
        ({"training": {"smoothing": 0.1}}, r"training\.smoothing = 0\.1; expected 0: the loss of"),
        (
            {"training": {"batch_size": None, "max_tokens": 9}},
            r"training\.max_tokens = 9; GenerationRecipe needs training\.batch_size instead",
        ),
    ],
)
def test_recipes_that_cannot_be_followed(fit, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "made", **fields)


def test_a_tokenizer_that_begins_with_stop_has_it_in_its_files(tmp_path):
    plain = Tokenizer.train_bpe([TEXT], 270)
    made = plain.begin_with_stop()
    made.save(tmp_path)
    for one in (made, Tokenizer.load(tmp_path)):
        assert one.add_special_tokens(one.encode("ab c")).ids == [plain.stop, *plain.encode("ab c")]
        assert one.stop == plain.stop
        assert one.decode(one.encode("ab c")) == "ab c"


def test_one_text_is_cut_and_of_many_some_are_held_out(text, tmp_path):
    splits = read_splits(TASK, DataConfig(train=(str(text),), validation_fraction=0.25))
    assert splits.train[0] + splits.validation[0] == TEXT
    assert len(splits.validation[0]) == round(0.25 * len(TEXT))
    table = tmp_path / "mine.jsonl"
    rows = [f"row {i % 13}" for i in range(26)]
    table.write_text("".join(json.dumps({"line": row}) + "\n" for row in rows))
    columns = {"text": "line"}
    splits = read_splits(TASK, DataConfig(train=(str(table),), columns=columns, test=str(text)))
    assert sorted([*splits.train, *splits.validation]) == sorted(rows)
    assert len(splits.validation) == 2  # equal texts stay together
    assert not {*splits.train} & {*splits.validation}
    assert splits.test == [TEXT]
    few = read_splits(TASK, DataConfig(train=(str(table),), columns=columns, limit=5))
    assert len(few.train) == 5


def test_one_source_for_two_splits_is_refused():
    for options in (
        {"train": ("a.txt",), "test": "a.txt"},
        {"train": ("docstrings",), "validation": "docstrings:train"},
    ):
        with pytest.raises(ConfigError, match=r"twice; expected another source for each split"):
            read_splits(TASK, DataConfig(**options))


def test_sources_that_cannot_be_read(tmp_path):
    source = Source(TASK, {})
    with pytest.raises(
        DataError,
        match=r"cannot read nowhere: there is no such .*; the named sets are docstrings, na",
    ):
        source.read("nowhere", "train")
    with pytest.raises(DataError, match="no split 'rest' of docstrings; expected train, "):
        source.read("docstrings:rest", "train")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt has no text: expected at least one"):
        source.read(str(tmp_path / "empty.txt"), "train")


def test_shakespeare_is_one_text():
    if not os.environ.get("QKV_DATA"):
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    splits = read_splits(TASK, DataConfig(train=("tinyshakespeare",)))
    assert [len(texts) for texts in splits] == [1, 1, 0]
    assert (len(splits.train[0]), len(splits.validation[0])) == (1_003_854, 111_540)

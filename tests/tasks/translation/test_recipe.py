"""`qkv train` of a translator: its data, what a folder has afterwards, killed runs, bad recipes."""

import gzip
import itertools
import json
import re
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import results
from tests.tasks.translators import make_translator

import qkv.tasks.seq2seq as recipes
from qkv.checkpoints.reader import CONFIG
from qkv.errors import ConfigError, DataError
from qkv.generation.ranking import Beam
from qkv.json_fields import read_json
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.seq2seq import BEAM
from qkv.tasks.splits import DataConfig, Source, read_splits
from qkv.tasks.train import train
from qkv.tasks.translation import TASK, TranslationRecipe, Translator
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.settings import Training

WORDS = {"red": "rot", "blue": "blau", "two": "zwei", "houses": "Häuser", "Dogs": "Hunde"}
COLUMNS = {"source": "en", "target": "de"}
MODEL = TranslatorSizes(d_model=22, n_heads=2, d_ff=31, n_encoder_layers=1, n_decoder_layers=1)
TRAINING = {
    "steps": 60,
    "max_tokens": 200,
    "learning_rate": 1e-2,
    "warmup": 5,
    "evaluate_every": 30,
    "save_every": 7,
}


@pytest.fixture
def table(tmp_path):
    rows = [" ".join(words) for words in itertools.permutations(WORDS, 3)]
    rows = [{"en": row, "de": " ".join(WORDS[word] for word in row.split())} for row in rows]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def recipe(table, tmp_path):
    """A recipe; fields of `data` and `training` may be replaced, too."""

    def make(output="made", *, data=None, training=None, **fields):
        data = {"train": str(table), "columns": COLUMNS, "validation_limit": 7} | (data or {})
        own = {"vocab_size": 290, "model": MODEL} if "base" not in fields else {}
        beam = Beam(size=2, length_penalty=1.0, length_rule="power")
        return TranslationRecipe(
            output=tmp_path / output,
            data=DataConfig(**{"validation_fraction": 0.2} | data),
            training=Training(**TRAINING | (training or {})),
            device="cpu",
            **{"max_length": 17, "beam": beam, **own, **fields},
        )

    return make


@pytest.fixture
def fit(recipe):
    """Train into a folder; returns it."""

    def run(*arguments, **fields):
        made = recipe(*arguments, **fields)
        with unchecked():
            train(TASK, made)
        return made.output

    return run


def test_a_recipe_makes_a_folder_that_translates(fit, capsys):
    output = fit()
    told = capsys.readouterr().out
    assert "48 examples to train on, 7 to validate, 0 to test" in told
    assert told.count("validation: BLEU") == 3
    made = results(output)
    assert "test" not in made
    assert made["train_examples"] == 48
    assert made["validation"]["count"] == 7
    assert "case:lc" in made["validation"]["bleu_lowercase"]["signature"]
    assert made["recipe"]["beam"]["size"] == 2
    translator = Translator.load(output)
    assert (translator.limit, translator.max_length, translator.beam.size) == (17, 17, 2)
    assert made["validation"]["chrf"]["score"] > 25  # it has learned
    assert str(translator("two red Dogs")).startswith("zwei")


def test_the_same_weights_have_one_score(fit, capsys):
    """What chose the best weights is what the finished model is reported with."""
    made = results(fit(training={"evaluate_every": 20}))
    told = capsys.readouterr().out
    step = re.search(r"the weights are those of step (\d+), the best by chrF", told)[1]
    scores = re.search(rf"step {step} of 60, validation: BLEU ([\d.]+), .* chrF ([\d.]+)", told)
    after = made["validation"]["bleu"]["score"], made["validation"]["chrf"]["score"]
    assert scores.groups() == tuple(f"{score:.4f}" for score in after)


def test_lower_case_is_read_and_written(fit):
    translator = Translator.load(fit(lowercase=True, training={"steps": 30}))
    assert str(translator("TWO Dogs")) == str(translator("two dogs"))
    assert str(translator("TWO Dogs")) == str(translator("TWO Dogs")).lower()
    tokenizer = translator.tokenizer
    assert tokenizer.decode(tokenizer.encode("Zwei Häuser")) == "zwei häuser"


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(fit, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    table = tmp_path / "test.csv"
    table.write_text("en,de\ntwo houses,zwei Häuser\nred Dogs,rot Hunde\n", encoding="utf-8")
    options = {
        "data": {"test": str(table)},
        "training": {"steps": 12, "ema": 0.9},
        "model": replace(MODEL, dropout=0.2),
    }
    calls, loss = itertools.count(1), recipes.pair_loss

    def killed(*arguments, **names):
        if next(calls) == 10:
            raise ZeroDivisionError("killed")
        return loss(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "pair_loss", killed)
        with pytest.raises(ZeroDivisionError):
            fit("broken", **options)
    assert not broken.exists()
    scored, evaluate = [], Translator.evaluate

    def counted(self, examples, **names):
        scored.append(len(examples))
        return evaluate(self, examples, **names)

    monkeypatch.setattr(Translator, "evaluate", counted)
    for folder in ("whole", "broken"):
        fit(folder, **options)
    assert scored.count(2) == 2  # the test split, once a run
    weights = [load_file(folder / "model.safetensors") for folder in (whole, broken)]
    assert all((weights[0][name] == tensor).all() for name, tensor in weights[1].items())
    assert results(whole) == results(broken)
    assert results(whole)["test"]["count"] == 2


def test_a_killed_run_does_not_continue_on_other_data(fit, table, monkeypatch):
    loss, calls = recipes.pair_loss, itertools.count(1)

    def killed(*arguments, **names):
        if next(calls) == 10:
            raise ZeroDivisionError("killed")
        return loss(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "pair_loss", killed)
        with pytest.raises(ZeroDivisionError):
            fit(training={"steps": 12})
    changed = table.read_text(encoding="utf-8").replace("blau", "bleu")
    table.write_text(changed, encoding="utf-8")
    with pytest.raises(ConfigError, match="data_checksum"):
        fit(training={"steps": 12})


def test_a_base_is_trained_on_and_keeps_its_other_settings(fit, tmp_path, capsys):
    base = fit("base", training={"steps": 40})
    rules = {"bad_words_ids": [[5]], "do_sample": True, "max_new_tokens": 3, "eos_token_id": 2}
    (base / "generation_config.json").write_text(json.dumps(rules))
    beam = replace(BEAM, size=3)
    made = fit(
        base=str(base),
        beam=beam,
        max_length=16,
        finetuning=FineTuning(train="lora"),
        training={"steps": 20, "evaluate_every": 20},
    )
    translator = Translator.load(made)
    assert (translator.beam, translator.max_length, translator.limit) == (beam, 16, 17)
    assert translator.decoding.bad_words == ((5,),)
    assert read_json(made / CONFIG)["task_specific_params"]["qkv"]["task"] == "translate"
    trained, parameters = (results(made)[name] for name in ("trained_parameters", "parameters"))
    assert trained < parameters
    adapter = tmp_path / "made.training" / "adapter"
    assert f"the adapter alone, in PEFT's format: {adapter}" in capsys.readouterr().out
    before, after = (load_file(folder / "model.safetensors") for folder in (base, made))
    assert before.keys() == after.keys()
    assert any((before[name] != tensor).any() for name, tensor in after.items())
    # What results.json reports is what the folder gives.
    data = DataConfig(**results(made)["recipe"]["data"])
    scores = translator.evaluate(read_splits(TASK, data).validation, samples=2)
    assert scores.chrf.score == pytest.approx(results(made)["validation"]["chrf"]["score"])


def test_a_base_has_its_own_sizes_and_length(recipe, tmp_path):
    make_translator("marian").save(tmp_path / "base")
    base = str(tmp_path / "base")
    for name, value in (("model", MODEL), ("vocab_size", 300), ("lowercase", True)):
        with pytest.raises(ConfigError, match=f"base = {base} with {name}; expected no other"):
            recipe(base=base, **{name: value}).check()
    with pytest.raises(ConfigError, match=r"with finetuning\.train; expected no other value"):
        recipe(base=base, finetuning=FineTuning(train="scratch")).check()
    with pytest.raises(ConfigError, match=f"max_length = 17, but {base} reads at most 13 tokens"):
        train(TASK, recipe(base=base))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"training": {"max_tokens": None, "batch_size": 7}},
            ConfigError,
            r"training\.batch_size = 7; TranslationRecipe needs training\.max_tokens instead",
        ),
        ({"beam": Beam(length_penalty=0.6)}, ConfigError, "length_rule = 'gnmt'"),
        ({"max_length": 0}, ConfigError, "max_length = 0; expected at least 1"),
        ({"max_length": 2}, DataError, "max_length = 2 tokens leaves no pair to train on"),
        ({"vocab_size": 100}, ConfigError, "vocab_size is 100, expected at least 260"),
        ({"finetuning": FineTuning(train="lora")}, ConfigError, "base = null with finetuning"),
        (
            {"data": {"columns": {"source": "en", "target": "fr"}}},
            DataError,
            "has no column 'fr'; its columns are 'en', 'de'",
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_before_training(fit, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        fit(**options)
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "made.training").exists()


def test_long_pairs_are_left_out_and_counted(recipe, tmp_path):
    table = tmp_path / "some.csv"
    long = "red " * 20
    rows = [f"red {i},rot {i}" for i in range(9)] + [f"{long},rot", f"blue,{long}"]
    table.write_text("\n".join(["en,de", *rows]), encoding="utf-8")
    made = recipe(vocab_size=280)
    pairs = Source(TASK, COLUMNS).read(str(table), "train")
    both = read_splits(TASK, DataConfig(train=str(table), columns=COLUMNS, validation_fraction=0.1))
    pipeline = made.build(both)
    prepared = made.batches(pipeline, replace(both, train=pairs))
    assert prepared.remarks == ("2 pairs of more than 17 tokens are left out",)


def test_a_fraction_is_held_out_with_all_translations_of_a_sentence(tmp_path):
    table = tmp_path / "my.csv"
    rows = [(f"one {i % 53}", f"eins {i}") for i in range(106)]
    table.write_text("\n".join(["en,de", *map(",".join, rows)]), encoding="utf-8")
    data = DataConfig(train=str(table), columns=COLUMNS, validation_fraction=0.2)
    splits = read_splits(TASK, data)
    assert len(splits.validation) == 22
    assert sorted([*splits.train, *splits.validation]) == sorted(rows)
    assert not {source for source, _ in splits.train} & {source for source, _ in splits.validation}
    assert list(splits) == list(read_splits(TASK, data))


def test_the_columns_of_a_named_set_are_languages(tmp_path):
    for part in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de", "cs"):
            path = tmp_path / "multi30k" / f"{part}.{language}.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(f"{part} {language}\n".encode()))
    columns = {"source": "de", "target": "cs"}
    splits = read_splits(TASK, DataConfig(train="multi30k", columns=columns, data_dir=tmp_path))
    assert list(splits) == [
        [("train de", "train cs")],
        [("val de", "val cs")],
        [("test_2016_flickr de", "test_2016_flickr cs")],
    ]
    # Without columns, the set's first two languages; those of tables are none.
    english = Source(TASK, {}, tmp_path).read("multi30k:validation", "test")
    assert english == [("val en", "val de")]
    with pytest.raises(DataError, match="no multi30k from 'fr' to 'de'"):
        Source(TASK, {"source": "fr", "target": "de"}, tmp_path).read("multi30k", "test")


def test_two_files_are_aligned_by_line(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo, three\n", encoding="utf-8")
    (tmp_path / "a.de").write_text("eins\nzwei, drei\n", encoding="utf-8")
    names, source = f"{tmp_path / 'a.en'},{tmp_path / 'a.de'}", Source(TASK, {})
    assert source.read(names, "train") == [("one", "eins"), ("two, three", "zwei, drei")]
    (tmp_path / "a.de").write_text("eins\n \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.de, line 2, is empty: expected a sentence"):
        source.read(names, "train")
    with pytest.raises(DataError, match="names 3 files; expected two with one sentence per line"):
        source.read(f"{names},c", "train")

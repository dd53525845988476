"""`qkv train` of a translator: what a folder holds afterwards, killed runs, bad recipes."""

import itertools
import json
import re

import pytest
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import results

import qkv.tasks.translation.recipe as recipes
from qkv.errors import ConfigError, DataError
from qkv.generation.ranking import Beam
from qkv.tasks.translation.data import Translations
from qkv.tasks.translation.recipe import Sizes, train_translator
from qkv.tasks.translation.translator import Translator
from qkv.training.settings import Training

WORDS = {"red": "rot", "blue": "blau", "two": "zwei", "houses": "Häuser", "Dogs": "Hunde"}
MODEL = {"d_model": 22, "n_heads": 2, "d_ff": 31, "n_encoder_layers": 1, "n_decoder_layers": 1}
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
def fit(table):
    """Train into a folder; returns it."""

    def run(output, *, data=None, model=None, beam=None, **training):
        data = {"train": str(table), "vocab_size": 290, "validation_limit": 7} | (data or {})
        with unchecked():
            train_translator(
                output=output,
                data=Translations(**{"max_length": 17, "validation_share": 0.2} | data),
                model=Sizes(**MODEL | (model or {})),
                training=Training(**TRAINING | training),
                beam=beam or Beam(size=2, length_penalty=1.0, length_rule="power"),
                device="cpu",
            )
        return output

    return run


def test_a_recipe_makes_a_folder_that_translates(fit, table, tmp_path, capsys):
    output = fit(tmp_path / "made")
    told = capsys.readouterr().out
    assert "48 pairs to learn from (0 longer than 17 tokens left out), 7 to validate" in told
    assert told.count("validation: BLEU") == 3
    assert json.loads((output / "results.json").read_text())["test"] is None
    made = results(output)
    assert made["validation"]["count"] == 7
    assert "case:lc" in made["validation"]["bleu_lowercase"]["signature"]
    assert made["recipe"]["beam"]["size"] == 2
    translator = Translator.load(output)
    assert (translator.limit, translator.max_length, translator.beam.size) == (17, 17, 2)
    assert made["validation"]["chrf"]["score"] > 25  # it has learned
    assert translator("two red Dogs").startswith("zwei")


def test_the_same_weights_have_one_score(fit, tmp_path, capsys):
    """What chose the best weights is what the finished model is reported with."""
    made = results(fit(tmp_path / "made", evaluate_every=20))
    told = capsys.readouterr().out
    step = re.search(r"the weights are those of step (\d+), the best by chrF", told)[1]
    scores = re.search(rf"step {step} of 60, validation: BLEU ([\d.]+), .* chrF ([\d.]+)", told)
    after = made["validation"]["bleu"]["score"], made["validation"]["chrf"]["score"]
    assert scores.groups() == tuple(f"{score:.4f}" for score in after)


def test_lower_case_is_read_and_written(fit, tmp_path):
    translator = Translator.load(fit(tmp_path / "made", data={"lowercase": True}, steps=30))
    assert translator("TWO Dogs") == translator("two dogs")
    assert translator("TWO Dogs") == translator("TWO Dogs").lower()
    assert translator.source.decode(translator.source.encode("Zwei Häuser")) == "zwei häuser"


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(fit, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    table = tmp_path / "test.csv"
    table.write_text("en,de\ntwo houses,zwei Häuser\nred Dogs,rot Hunde\n", encoding="utf-8")
    options = {"data": {"test": str(table)}, "steps": 12, "model": {"dropout": 0.2}, "ema": 0.9}
    calls, loss = itertools.count(1), recipes.pair_loss

    def killed(*arguments, **names):
        if next(calls) == 10:
            raise ZeroDivisionError("killed")
        return loss(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "pair_loss", killed)
        with pytest.raises(ZeroDivisionError):
            fit(broken, **options)
    assert not broken.exists()
    scored, evaluate = [], Translator.evaluate

    def counted(self, examples, **names):
        scored.append(len(examples))
        return evaluate(self, examples, **names)

    monkeypatch.setattr(Translator, "evaluate", counted)
    for folder in (whole, broken):
        fit(folder, **options)
    assert scored.count(2) == 2  # the test part, once a run
    weights = [load_file(folder / "model.safetensors") for folder in (whole, broken)]
    assert all((weights[0][name] == tensor).all() for name, tensor in weights[1].items())
    assert results(whole) == results(broken)
    assert results(whole)["test"]["count"] == 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_tokens": None, "batch_size": 7}, ConfigError, "sentences are batched by tokens"),
        ({"beam": Beam(length_penalty=0.6)}, ConfigError, "length_rule = 'gnmt'"),
        ({"data": {"max_length": 2}}, DataError, "max_length = 2 tokens leaves no pair to learn"),
        ({"data": {"vocab_size": 100}}, ConfigError, "vocab_size is 100, expected at least 260"),
        ({"data": {"target": "fr"}}, DataError, "has no column 'fr'"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_before_training(fit, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        fit(tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "made.training").exists()

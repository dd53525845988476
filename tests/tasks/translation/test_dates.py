"""`qkv train` of dates: a recipe for a new model on pairs that are drawn."""

import json

import pytest

from qkv.cli import main
from qkv.errors import ConfigError
from qkv.tasks.dates import TASK, Dates, DatesRecipe, DateTranslator
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import train
from qkv.tasks.translation import Translator

RECIPE = """
task: dates
output: {output}
device: cpu
dates: {{locales: [de, hu], pairs: 300, held_out: 20}}
model: {{d_model: 16, n_heads: 2, d_ff: 24, n_encoder_layers: 1, n_decoder_layers: 1}}
training: {{steps: 4, warmup: 2, max_tokens: 500, evaluate_every: 2}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(output=(tmp_path / "made").as_posix()))
    return str(path)


def test_a_recipe_makes_a_folder_that_translates(recipe, tmp_path, capsys):
    output = tmp_path / "made"
    assert main(["train", recipe, "--training.steps", "5"]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["recipe"]["training"]["steps"] == 5
    assert 0 <= results["test_exact_match"] <= 1
    assert results["test"] == {"count": 20, "exact_match": results["test_exact_match"]}
    told = capsys.readouterr().out
    assert told.count("validation: exact match") == 4
    assert f"test: exact match {results['test_exact_match']:.2%} of 20 dates" in told
    assert len(Translator.load(output)(["4. Juli 1976"])) == 1
    table = tmp_path / "dates.csv"
    table.write_text("source,target\n4. Juli 1976,1976-07-04\n")
    assert main(["evaluate", str(output), "--data", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 1, "exact_match": 0.0}


def test_a_field_that_there_is_not_is_refused_by_name(recipe, tmp_path, capsys):
    assert main(["train", recipe, "--model", '{"width": 3}']) == 2
    assert 'Unknown field "width"' in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    for option, value in (("--training.stepz", "5"), ("--vocab_size", "99"), ("--lowercase", "")):
        assert main(["train", recipe, option, *filter(None, [value])]) == 2
        assert option.lstrip("-") in capsys.readouterr().err


def test_dates_are_batched_by_tokens(recipe, capsys):
    options = ["--training.max_tokens", "null", "--training.batch_size", "7"]
    assert main(["train", recipe, *options]) == 2
    message = "training.batch_size = 7; DatesRecipe needs training.max_tokens instead"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base": "translator-en-de"}, "base = translator-en-de; expected null: dates train a new"),
        ({"data": DataConfig(train="my.csv")}, "data is set, but the dates are drawn; expected"),
        ({"finetuning": FineTuning(train="lora")}, "base = null with finetuning.train = lora"),
    ],
)
def test_a_base_and_other_data_are_refused(tmp_path, fields, words):
    with pytest.raises(ConfigError, match=words):
        train(TASK, DatesRecipe(output=tmp_path / "made", **fields))


def test_the_splits_of_a_recipe_share_no_date(tmp_path):
    recipe = DatesRecipe(output=tmp_path, dates=Dates(pairs=3_000, held_out=500))
    splits = recipe.read(TASK)
    train, validation, test = ({iso for _, iso in split} for split in splits)
    assert not train & test
    assert not train & validation
    assert not validation & test
    assert [len(split) for split in splits] == [3_000, 500, 500]


def test_all_pairs_are_trained_on_whatever_their_length(tmp_path):
    recipe = DatesRecipe(output=tmp_path, dates=Dates(pairs=3_000), max_length=12)
    splits = recipe.read(TASK)
    pipeline = recipe.build(splits)
    assert isinstance(pipeline, DateTranslator)
    batches = recipe.batches(pipeline, splits).batches
    rows = 0
    for batch in batches:
        rows += len(batch.source)
        if rows >= 3_000:
            break
    assert rows == 3_000  # an epoch

"""`qkv train RECIPE`: what a folder holds afterwards, and what is refused before."""

import json

import pytest

from qkv.cli import main
from qkv.tasks.dates import Dates
from qkv.tasks.translation import load_translator

RECIPE = """
task: dates
output: {output}
device: cpu
data: {{locales: [de, hu], pairs: 300, held_out: 20}}
model: {{d_model: 16, n_heads: 2, d_ff: 24, n_encoder_layers: 1, n_decoder_layers: 1}}
training: {{steps: 4, warmup: 2, max_tokens: 500, evaluate_every: 2}}
"""


def test_a_recipe_makes_a_folder_that_translates(tmp_path, capsys):
    recipe, output = tmp_path / "tiny.yaml", tmp_path / "made"
    recipe.write_text(RECIPE.format(output=output.as_posix()))
    assert main(["train", str(recipe), "--training.steps", "5"]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["recipe"]["training"]["steps"] == 5
    assert 0 <= results["test exact match"] <= 1
    assert capsys.readouterr().out.count("validation: exact match") == 3
    assert len(load_translator(output)(["4. Juli 1976"])) == 1


def test_a_field_that_there_is_not_is_refused_by_name(tmp_path, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.format(output=(tmp_path / "made").as_posix()))
    assert main(["train", str(recipe), "--model", '{"width": 3}']) == 2
    assert "model has no field width; expected some of" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "--training.stepz", "5"])
    assert "stepz" in capsys.readouterr().err


def test_the_splits_of_a_recipe_share_no_date():
    data = Dates(pairs=3_000, held_out=500)
    dates = {
        split: {iso for _, iso in data.draw(split)} for split in ("train", "validation", "test")
    }
    assert not dates["train"] & dates["test"]
    assert not dates["train"] & dates["validation"]
    assert not dates["validation"] & dates["test"]
    assert len(data.draw("train")) == 3_000
    assert len(data.draw("test")) == 500

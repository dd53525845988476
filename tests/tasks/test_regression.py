"""A task that the package does not have is one page: training, commands and the library use it."""

import json

import pytest
from tests.helpers import unchecked
from tests.tasks.small import sentences, write_base, write_table

import qkv
from qkv.cli import main
from qkv.tasks.task import PAGES, Page, commands, task_of

RECIPE = """
task: rate
output: {folder}/made
base: {folder}/base
device: cpu
data: {{train: {folder}/train.csv, test: {folder}/test.csv}}
training: {{epochs: 40, batch_size: 7, learning_rate: 3e-3, schedule: constant, warmup: 0}}
"""


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """The folder of a trained model."""
    page = Page("tests.tasks.regression", "Rate texts.")
    monkeypatch.setitem(PAGES, "rate", page)
    write_base(tmp_path / "base")
    rows = [(text, {"good": 1, "bad": -1}[label]) for text, label in sentences(60)]
    for name, part in (("train", rows[:40]), ("test", rows[40:])):
        write_table(tmp_path / f"{name}.csv", part, ("text", "rating"))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path.as_posix()))
    with unchecked():
        assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    out = capsys.readouterr().out
    assert f"try it: qkv rate --model {tmp_path}/made 'a text'" in out
    assert "test: error 0." in out
    return tmp_path / "made"


def test_a_new_page_trains_predicts_and_evaluates(made, tmp_path, capsys):
    results = json.loads((made / "results.json").read_text())
    assert results["recipe"]["task"] == "rate"
    assert results["test"]["count"] == 20
    assert results["test"]["squared_error"] < 0.3 < results["test"]["baseline"]
    assert task_of(str(made)) == "rate"
    assert "rate" in commands()

    assert main(["rate", "--model", str(made), "the film was superb", "the film was awful"]) == 0
    good, bad = capsys.readouterr().out.splitlines()
    assert good.endswith("\tthe film was superb")
    assert float(good.partition("\t")[0]) > 0.3 > -0.3 > float(bad.partition("\t")[0])

    assert main(["rate", "-m", str(made), "--file", str(tmp_path / "test.csv"), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rate = qkv.task("rate", made)
    assert rate("the film was superb").rating == pytest.approx(float(good[:5]), abs=1e-3)
    many = rate([row["text"] for row in rows])
    assert [one.rating for one in many] == pytest.approx([row["rating"] for row in rows], abs=1e-4)

    assert main(["evaluate", str(made), "--data", str(tmp_path / "test.csv"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["squared_error"] == pytest.approx(results["test"]["squared_error"], abs=1e-6)
    assert main(["evaluate", str(made), "--data", str(tmp_path / "test.csv")]) == 0
    assert "20 texts" in capsys.readouterr().out


def test_its_command_has_the_options_of_all_commands_and_their_errors(made, tmp_path, capsys):
    assert main(["--help"]) == 0
    assert "Rate texts." in capsys.readouterr().out
    assert main(["rate", "--help"]) == 0
    out = capsys.readouterr().out
    for text in ("Rate texts.", "the texts to rate", "--file", "--output", "--device"):
        assert text in out
    assert main(["rate", "a text"]) == 2
    assert "qkv rate has no shipped model; expected --model MODEL" in capsys.readouterr().err
    assert main(["rate", "-m", str(made), "the film", " ", "a soup"]) == 2
    captured = capsys.readouterr()
    assert [bool(line) for line in captured.out.splitlines()] == [True, False, True]
    assert "argument 2: empty; expected a text" in captured.err
    write_table(tmp_path / "bad.csv", [("a film", "great")], ("text", "rating"))
    assert main(["evaluate", str(made), "--data", str(tmp_path / "bad.csv")]) == 2
    assert "bad.csv, line 2: rating = 'great'; expected a number" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "recipe.yaml"), "--training.smoothing", "0.1"]) == 2
    assert "training.smoothing = 0.1; expected 0" in capsys.readouterr().err


def test_a_killed_or_changed_run_is_treated_as_that_of_any_task(made, tmp_path, capsys):
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    assert "steps, which are not repeated" in capsys.readouterr().out
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a new text,1\n")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "data_checksum was" in capsys.readouterr().err

"""`qkv exercise` as a learner types it."""

import csv

import pytest
from tests.tutorial.exercises.answers import RIGHT, SWAPPED

import qkv.cli as cli
from qkv.tutorial.exercises.progress import read_progress
from qkv.tutorial.exercises.registry import EXERCISES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QKV_STATE", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(*arguments):
    """The exit status of a command line."""
    try:
        return cli.main(["exercise", *arguments])
    except SystemExit as ended:
        return ended.code


def test_the_way_of_a_learner(folder, capsys):
    assert run("start", "4.1") == 0
    path = folder / "exercise_4_1.py"
    assert "def sinusoids(positions: Tensor, d_model: int) -> Tensor:" in path.read_text()
    assert "exercise_4_1.py has the task" in capsys.readouterr().out
    path.write_text(SWAPPED)
    assert run("check", "4.1") == 1
    assert "Not yet: sine and cosine are exchanged." in capsys.readouterr().out
    assert run("hint", "4.1") == 0
    assert "There are D / 2 angles" in capsys.readouterr().out
    (folder / "other.py").write_text(RIGHT)
    assert run("check", "4.1", "other.py") == 0
    assert capsys.readouterr().out.startswith("Right, on all 4 inputs.")
    assert run("list") == 0
    out = capsys.readouterr().out
    assert "1 of 27 solved. To begin: qkv exercise start 1.1" in out
    assert run("progress", "--csv", "mine.csv") == 0
    with (folder / "mine.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["exercise"] == "4.1")
    assert row["mistakes"] == "sine and cosine are exchanged (1)"
    assert (row["attempts"], row["hints"]) == ("2", "1")


def test_a_file_is_never_overwritten(folder, capsys):
    (folder / "exercise_1_1.py").write_text("mine")
    assert run("start", "1.1") == 2
    assert "exercise_1_1.py exists and is not overwritten" in capsys.readouterr().err
    assert (folder / "exercise_1_1.py").read_text() == "mine"


def test_the_solution_is_a_function_that_runs(capsys):
    assert run("solution", "4.1") == 0
    scope = {}
    source = capsys.readouterr().out
    exec(f"import torch\nfrom torch import Tensor\n{source}", scope)
    assert callable(scope["sinusoids"])
    assert read_progress()["4.1"].solution


@pytest.mark.parametrize("command", ["start", "check", "hint", "solution"])
def test_an_unknown_exercise(command, capsys):
    assert run(command, "2.9") == 2
    assert "there is no exercise '2.9'; expected a section and a number" in capsys.readouterr().err


def test_a_missing_file(capsys):
    assert run("check", "1.1") == 2
    assert "(qkv exercise start 1.1 makes one)" in capsys.readouterr().err


def test_the_list_has_all_titles(capsys):
    assert run("list") == 0
    out = capsys.readouterr().out
    assert all(entry.title in out for entry in EXERCISES.values())


def test_progress_is_printed(capsys):
    assert run("progress") == 0
    assert capsys.readouterr().out.startswith("exercise,title,solved,attempts,hints,solution")


def test_help_lists_the_commands(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in ("list", "start", "check", "hint", "solution", "progress"):
        assert name in out

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

from qkv.errors import DataError, StorageError
from qkv.tutorial.exercises import progress
from qkv.tutorial.exercises.progress import (
    Attempts,
    progress_file,
    progress_table,
    read_progress,
    record_attempt,
    record_help,
)


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("QKV_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "exercises.json"


def test_attempts_mistakes_and_hints_are_counted_until_an_exercise_is_solved(state):
    assert read_progress() == {}
    record_attempt("2.2", right=False, mistake="the mask is inverted")
    record_attempt("2.2", right=False, mistake="the mask is inverted")
    record_attempt("2.2", right=False)
    record_help("2.2", solution=False)
    assert read_progress()["2.2"].state == "tried 3 times"
    record_attempt("2.2", right=True)
    record_attempt("2.2", right=False)
    record_help("2.2", solution=True)
    one = read_progress()["2.2"]
    assert (one.attempts, one.hints, one.solution) == (4, 1, False)
    assert one.mistakes == {"the mask is inverted": 2}
    assert datetime.fromisoformat(one.solved).tzinfo is not None
    assert one.state == "solved"


def test_the_state_in_words():
    assert Attempts().state == ""
    assert Attempts(attempts=1).state == "tried"
    assert Attempts(solved="2026-01-01", solution=True).state == "solved after the solution"


def test_the_table_has_a_line_for_each_exercise(state):
    record_attempt("1.1", right=False, mistake="the tanh is missing")
    record_help("1.1", solution=True)
    record_attempt("1.1", right=True)
    rows = list(csv.DictReader(io.StringIO(progress_table(read_progress()))))
    assert len(rows) == 27
    assert rows[0]["mistakes"] == "the tanh is missing (1)"
    assert (rows[0]["attempts"], rows[0]["solution shown"]) == ("2", "yes")
    assert rows[1] == {
        "exercise": "1.2",
        "title": "Luong's concat scores",
        "solved": "",
        "attempts": "0",
        "hints": "0",
        "solution shown": "no",
        "mistakes": "",
    }


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"exercises": {"1.1": {"attempts": "x"}}}', "\0"]
)
def test_a_file_that_is_not_ours_is_not_overwritten(state, content):
    state.parent.mkdir()
    state.write_text(content)
    with pytest.raises(DataError, match=r"is not a file with the progress of exercises.*remove it"):
        record_attempt("1.1", right=True)
    assert state.read_text() == content


def test_fields_of_a_later_version_are_left_out(state):
    state.parent.mkdir()
    state.write_text(json.dumps({"exercises": {"1.1": {"attempts": 2, "stars": 5}}}))
    assert read_progress() == {"1.1": Attempts(attempts=2)}


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKV_STATE", str(tmp_path / "file"))
    with pytest.raises((StorageError, DataError), match=r"cannot be written|is not a file with"):
        record_attempt("1.1", right=True)


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, ".local/state/qkv"),
        ("linux", {"XDG_STATE_HOME": "/x"}, "/x/qkv"),
        ("darwin", {}, "Library/Application Support/qkv"),
        ("win32", {}, "AppData/Local/qkv"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/qkv"),
        ("linux", {"QKV_STATE": "/mine"}, "/mine"),
    ],
)
def test_the_folder_is_that_of_the_system(platform, variables, folder, monkeypatch):
    for name in ("QKV_STATE", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress.sys, "platform", platform)
    assert progress_file() == Path.home() / folder / "exercises.json"
    assert sys.platform == platform

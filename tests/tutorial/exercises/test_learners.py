"""Answers of learners, written by someone who had not read the catalogue of mistakes.

named.json has the names that the checker gave, each compared by hand with what the writer says:
49 of 50 mistakes are named rightly; the one that is not is rejected without a name. Of the 20
errors that were meant to have no name two do have one, the right one.
"""

import json
from pathlib import Path

import pytest

from qkv.tutorial.exercises.checker import judge, run_here
from qkv.tutorial.exercises.registry import find_exercise

FOLDER = Path(__file__).with_name("mistakes")
ROWS = [json.loads(line) for line in (FOLDER / "index.jsonl").read_text().splitlines()]
NAMED = json.loads((FOLDER / "named.json").read_text())


def verdict(row):
    exercise = find_exercise(row["exercise"])
    space = {"__name__": "answer"}
    exec(compile((FOLDER / row["file"]).read_text(), row["file"], "exec"), space)
    return judge(exercise, run_here(exercise, space[exercise.name]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"].removesuffix(".py"))
def test_an_answer_of_a_learner(row):
    found = verdict(row)
    assert found.right == (row["kind"] == "correct"), found.message
    assert found.mistake == NAMED.get(row["file"], "")


def test_the_counts():
    kinds = [row["kind"] for row in ROWS]
    assert [kinds.count(kind) for kind in ("mistake", "other", "correct")] == [50, 20, 20]
    mistakes = [row["file"] for row in ROWS if row["kind"] == "mistake"]
    assert sum(file in NAMED for file in mistakes) == 49
    assert not [row for row in ROWS if row["kind"] == "correct" and row["file"] in NAMED]

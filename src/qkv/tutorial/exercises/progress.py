"""What a learner has solved, in one small file in the user's folder."""

import csv
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qkv.errors import DataError
from qkv.files import only_writer, write_atomically
from qkv.tutorial.exercises.registry import EXERCISES

STATE = "QKV_STATE"  # the variable that names another folder


@dataclass
class Attempts:
    """The attempts at one exercise.

    Args:
        attempts: number of checks.
        solved: time of the first right answer, ISO 8601 in UTC; "" if there is none.
        mistakes: how often each named mistake was made.
        hints: number of hints that were asked for.
        solution: whether the solution was shown before the first right answer.
    """

    attempts: int = 0
    solved: str = ""
    mistakes: dict[str, int] = field(default_factory=dict)
    hints: int = 0
    solution: bool = False

    @property
    def state(self) -> str:
        """The state of the exercise, in a few words."""
        if self.solved:
            return "solved" if not self.solution else "solved after the solution"
        return f"tried {self.attempts} times" if self.attempts > 1 else "tried" * self.attempts


def progress_file() -> Path:
    """Return the progress file: in QKV_STATE, or in the system's folder for such files."""
    home = Path.home()
    if named := os.environ.get(STATE):
        folder = Path(named)
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "qkv"
    elif sys.platform == "darwin":
        folder = home / "Library" / "Application Support" / "qkv"
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "qkv"
    return folder / "exercises.json"


def read_progress() -> dict[str, Attempts]:
    """Return the attempts by exercise.

    Raises:
        DataError: the file is not one of ours.
    """
    path = progress_file()
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {number: _attempts(values) for number, values in content["exercises"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise DataError(
            f"{path} is not a file with the progress of exercises ({error}); remove it to begin "
            f"anew, or name another folder by {STATE}"
        ) from error


def record_attempt(number: str, *, right: bool, mistake: str = "") -> None:
    """Count a check.

    Raises:
        DataError: the file is not one of ours.
        StorageError: it cannot be written.
    """

    def change(attempts: Attempts) -> None:
        if attempts.solved:
            return  # checks after the first right answer do not count
        attempts.attempts += 1
        if right:
            attempts.solved = datetime.now(UTC).isoformat(timespec="seconds")
        elif mistake:
            attempts.mistakes[mistake] = attempts.mistakes.get(mistake, 0) + 1

    _update(number, change)


def record_help(number: str, *, solution: bool) -> None:
    """Count a hint, or note that the solution was shown; after the first right answer, neither.

    Raises:
        DataError: the file is not one of ours.
        StorageError: it cannot be written.
    """

    def change(attempts: Attempts) -> None:
        if not attempts.solved:
            attempts.solution = attempts.solution or solution
            attempts.hints += not solution

    _update(number, change)


def progress_table(progress: Mapping[str, Attempts]) -> str:
    """Return the progress as CSV, one line for each exercise."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("exercise", "title", "solved", "attempts", "hints", "solution shown", "mistakes")
    )
    for number, entry in EXERCISES.items():
        one = progress.get(number, Attempts())
        mistakes = "; ".join(f"{name} ({count})" for name, count in one.mistakes.items())
        solution = "yes" if one.solution else "no"
        row = (number, entry.title, one.solved, one.attempts, one.hints, solution, mistakes)
        writer.writerow(row)
    return text.getvalue()


def _update(number: str, change: Any) -> None:
    path = progress_file()
    with only_writer(path):
        progress = read_progress()
        change(progress.setdefault(number, Attempts()))
        content = {"exercises": {name: asdict(one) for name, one in progress.items()}}
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def _attempts(values: Mapping[str, Any]) -> Attempts:
    """Read an entry; a field of a later version is left out.

    Raises:
        TypeError: a field has another type.
    """
    known = {one.name: values[one.name] for one in fields(Attempts) if one.name in values}
    default = Attempts()
    for name, value in known.items():
        if type(value) is not type(getattr(default, name)):
            raise TypeError(f"{name} is {value!r}")
    return Attempts(**known)

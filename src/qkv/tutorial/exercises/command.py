"""The command `qkv exercise`. Modules that need torch are imported when a command runs."""

import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from qkv.errors import ConfigError, StorageError
from qkv.files import write_atomically
from qkv.tasks.console import show_table
from qkv.tutorial.exercises.parent import running
from qkv.tutorial.exercises.progress import (
    Attempts,
    progress_table,
    read_progress,
    record_attempt,
    record_help,
)
from qkv.tutorial.exercises.registry import EXERCISES, find_exercise

SUMMARY = "Solve the tutorial's exercises: qkv exercise list, start, check."
WIDTH = 88
exercise = App(name="exercise", help=SUMMARY, default_parameter=Parameter(negative=()))

Number = Annotated[str, Parameter(help="section and number, such as 2.2", name="NUMBER")]


@exercise.command(name="list")
def list_exercises() -> None:
    """List the exercises, and which of them you have solved."""
    progress = read_progress()
    rows = [
        {
            "exercise": number,
            "title": entry.title,
            "progress": progress.get(number, Attempts()).state,
        }
        for number, entry in EXERCISES.items()
    ]
    show_table("exercises", rows)
    solved = sum(bool(one.solved) for one in progress.values())
    print(f"{solved} of {len(EXERCISES)} solved. To begin: qkv exercise start 1.1")


@exercise.command
def start(number: Number, /) -> None:
    """Write a file to start from, such as exercise_2_2.py, into the current folder.

    Raises:
        ConfigError: there is no such exercise, or the file exists; it is never overwritten.
        StorageError: the file cannot be written.
    """
    starter = find_exercise(number).starter
    path = default_file(number)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists and is not overwritten; expected a new file: rename yours to start "
            "over, or continue with it"
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    print(f"{path} has the task. When your function is written: qkv exercise check {number}")


@exercise.command
def check(
    number: Number,
    file: Annotated[Path | None, Parameter(help="your file; default exercise_2_2.py")] = None,
    /,
) -> None:
    """Run your answer and say whether it is right, or which mistake its numbers show.

    The exit status is 0 if it is right and 1 if it is not.

    Raises:
        ConfigError: there is no such exercise or file.
    """
    with running(number, file or default_file(number)) as finish:
        from qkv.tutorial.exercises.checker import judge  # while the answer runs

        verdict = judge(find_exercise(number), finish())
    print(verdict.message)
    record_attempt(number, right=verdict.right, mistake=verdict.mistake)
    if not verdict.right:
        raise SystemExit(1)


@exercise.command
def hint(number: Number, /) -> None:
    """Give a hint for an exercise.

    Raises:
        ConfigError: there is no such exercise.
    """
    print(textwrap.fill(find_exercise(number).hint, WIDTH))
    record_help(number, solution=False)


@exercise.command
def solution(number: Number, /) -> None:
    """Show the solution of an exercise, as a function that runs.

    Raises:
        ConfigError: there is no such exercise.
    """
    from qkv.tutorial.source import source_of

    one = find_exercise(number)
    remark = textwrap.fill(one.remark, WIDTH, initial_indent="# ", subsequent_indent="# ")
    print(f"{source_of(one.solve)}\n\n{remark}")
    record_help(number, solution=True)


@exercise.command
def progress(*, csv: Path | None = None) -> None:
    """Show what you have solved, or write it to a file for a teacher.

    Args:
        csv: write the table to this file, with attempts, hints and mistakes.

    Raises:
        StorageError: the file cannot be written.
    """
    table = progress_table(read_progress())
    if csv is None:
        print(table, end="")
        return
    write_atomically(csv, table)
    print(f"wrote {csv}")


def default_file(number: str) -> Path:
    """Return the name of an answer's file in the current folder."""
    return Path(f"exercise_{number.replace('.', '_')}.py")

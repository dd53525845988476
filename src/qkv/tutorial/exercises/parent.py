"""Run a learner's file in a separate process. Importing this module does not import torch."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.errors import ConfigError
from qkv.tutorial.exercises.registry import check_number

if TYPE_CHECKING:
    from qkv.tutorial.exercises.running import Outcome

LIMIT = 10.0  # seconds that an answer may take on all its inputs
START = 120.0  # seconds that starting Python and torch may take, on a busy machine
KEPT = 2_000  # characters of what an answer prints that are kept

# The parent's import path, as -I ignores PYTHONPATH, and without the current folder, in which a
# learner's random.py would replace the standard library's.
CODE = (
    "import sys, json; number, file, folder, limit, path = sys.argv[1:]; "
    "sys.path[:] = json.loads(path); "
    "from qkv.tutorial.exercises.child import main; main(number, file, folder, float(limit))"
)


@dataclass(frozen=True)
class Ran:
    """The result of running a file.

    Args:
        outcomes: one for each draw; none if there was a problem.
        problem: why the answer did not run to the end, as a sentence; "" if it did.
        printed: the first characters that it printed.
    """

    outcomes: Sequence["Outcome"] = ()
    problem: str = ""
    printed: str = ""


@contextmanager
def running(number: str, file: Path, limit: float = LIMIT) -> Iterator[Callable[[], "Ran"]]:
    """Start running a file's function on all draws of an exercise, with a time limit.

    Inside the `with`, this process can do other work, such as importing torch as well.

    Yields:
        a function that waits for the run to end and returns its result.

    Raises:
        ConfigError: there is no such exercise or file, or it is not a Python file.
    """
    check_number(number)
    if not file.is_file():
        raise ConfigError(
            f"there is no file {file}; expected the file with your answer "
            f"(qkv exercise start {number} makes one)"
        )
    if file.suffix == ".ipynb":
        raise ConfigError(
            f"{file} is a notebook; expected a .py file. In a notebook: from "
            f'qkv.tutorial.exercises import check, then check("{number}", your_function)'
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        path = [entry for entry in sys.path if entry and Path(entry) != Path.cwd()]
        arguments = [number, str(file.resolve()), name, str(limit), json.dumps(path)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", CODE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"},
        )
        printed: list[bytes] = []
        reader = threading.Thread(target=_keep_first, args=(process, printed), daemon=True)
        reader.start()

        def finish() -> Ran:
            in_time = _wait(process, folder, limit)
            reader.join(1)
            text = b"".join(printed).decode("utf-8", "replace")
            return _read(folder, file, process.returncode, in_time, limit, text)

        try:
            yield finish
        finally:
            process.kill()  # such as when the user interrupts
            process.wait()


def _keep_first(process: subprocess.Popen[bytes], printed: list[bytes]) -> None:
    """Read everything a process prints, so that it never blocks, and keep the beginning."""
    assert process.stdout is not None
    with process.stdout as pipe:
        kept = 0
        while chunk := os.read(pipe.fileno(), 65_536):
            if kept < KEPT:
                printed.append(chunk[: KEPT - kept])
                kept += len(printed[-1])


def _wait(process: subprocess.Popen[bytes], folder: Path, limit: float) -> bool:
    """Wait for the end of a process, or end it; return whether it ended in time."""
    deadline, started = time.monotonic() + START, False
    while process.poll() is None:
        if not started and (folder / "started").exists():
            # The process ends itself after `limit`, and says where it was; this is for the case
            # that it cannot.
            deadline, started = time.monotonic() + limit + 3, True
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return False
        time.sleep(0.02)
    return True


def _read(folder: Path, file: Path, status: int, in_time: bool, limit: float, printed: str) -> Ran:
    """Read the results that a process left behind."""
    if (folder / "problem.json").exists():
        problem = json.loads((folder / "problem.json").read_text(encoding="utf-8"))
        return Ran(problem=problem, printed=printed)
    if (folder / "values.json").exists():
        from qkv.tutorial.exercises.running import Outcome
        from qkv.tutorial.exercises.values import read_values

        return Ran([Outcome(**value) for value in read_values(folder)], printed=printed)
    if not (folder / "started").exists():
        return Ran(problem=f"Python did not start: {printed.strip()[-500:]}", printed=printed)
    stack = (folder / "stack").read_text(encoding="utf-8", errors="replace")
    if not in_time or stack:
        return Ran(
            problem=f"Your code was not done after {limit:g} seconds{_at(stack, file)}: is there "
            "a loop that never ends?",
            printed=printed,
        )
    return Ran(
        problem=f"Your code ended Python (exit status {status}) before it returned a result: "
        "does it call sys.exit or os._exit, or need too much memory?",
        printed=printed,
    )


def _at(stack: str, file: Path) -> str:
    """Return the line of the learner's file that the process was executing."""
    place = re.search(rf'File "{re.escape(str(file.resolve()))}", line (\d+)', stack)
    if not place:
        return ""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    number = int(place[1])
    return f"; it was in line {number}, `{lines[number - 1].strip()}`"

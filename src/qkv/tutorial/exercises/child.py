"""The process in which a learner's file runs: `python -I`, with a time limit."""

import faulthandler
import inspect
import json
import os
import sys
import tokenize
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

from qkv.tutorial.exercises.registry import find_exercise
from qkv.tutorial.exercises.running import Outcome, raised, run_answer
from qkv.tutorial.exercises.values import write_values

ROOM = 4 * 2**30  # bytes that an answer may allocate, where the system can limit it


class Problem(Exception):  # noqa: N818 - a sentence for the learner
    """The reason why an answer cannot be run, as a sentence."""


def main(number: str, file: str, folder: str, limit: float) -> None:
    """Run a learner's file, and write outcomes or a problem into a folder.

    Args:
        number: the exercise.
        file: the learner's file.
        folder: empty folder for the results.
        limit: seconds after which this process ends itself.
    """
    exercise, into = find_exercise(number), Path(folder)
    exercise.draws()  # imports do not count toward the learner's time
    _limit_memory()
    with (into / "stack").open("w", encoding="utf-8") as stack:
        (into / "started").touch()
        faulthandler.dump_traceback_later(limit, exit=True, file=stack)
        try:
            answer = find_answer(load(file), exercise.name, file)
            check_parameters(answer, exercise.solve)
            outcomes = run_answer(exercise, answer, (file,))
            write_values(into, [outcome.encoded() for outcome in outcomes])
        except Problem as problem:
            (into / "problem.json").write_text(json.dumps(str(problem)), encoding="utf-8")
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the answer do not matter


def load(file: str) -> types.ModuleType:
    """Import a file as a module that is not `__main__`.

    Raises:
        Problem: it cannot be read or compiled, or raises an exception.
    """
    try:
        with tokenize.open(file) as opened:
            source = opened.read()
        code = compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        at = f" in line {error.lineno}" if error.lineno else ""
        text = f": {error.text.strip()}" if error.text else ""
        raise Problem(f"Python cannot read the file: {error.msg}{at}{text}") from error
    except (ValueError, OSError) as error:
        raise Problem(f"Python cannot read the file: {error}") from error
    module = types.ModuleType("answer")
    module.__file__ = file
    sys.modules["answer"] = module
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        raise Problem("The file ends Python (sys.exit or quit) while it is read.") from error
    except Exception as error:
        outcome = raised(error, (file,))
        raise Problem(
            f"The file raises an exception while it is read: {sentence(outcome)}"
        ) from error
    return module


def find_answer(module: types.ModuleType, name: str, file: str) -> Any:
    """Return the module's function of this name.

    Raises:
        Problem: there is none.
    """
    answer = getattr(module, name, None)
    if callable(answer):
        return answer
    if answer is not None and name == "by_hand":  # the numbers themselves
        return lambda: answer
    functions = [
        other
        for other, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == "answer"
    ]
    there = f"it defines {', '.join(functions)}" if functions else "it defines no function"
    raise Problem(
        f"{Path(file).name} has no function named {name}; {there}. The name must be that of the "
        "starter file."
    )


def check_parameters(answer: Any, solve: Any) -> None:
    """Check that an answer takes the arguments that the exercise passes, by position.

    Raises:
        Problem: it takes different ones.
    """
    expected = list(inspect.signature(solve).parameters)
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):
        return  # a function written in C
    try:
        signature.bind(*expected)
    except TypeError as error:
        raise Problem(
            f"Your function takes the arguments {signature}; expected ({', '.join(expected)}), "
            "in this order."
        ) from error


def sentence(outcome: Outcome) -> str:
    """Say in one sentence what was raised and where."""
    where = f" in line {outcome.line}, `{outcome.source}`" if outcome.line else ""
    message = f": {outcome.message}" if outcome.message else ""
    return f"{outcome.error}{where}{message}"


def _limit_memory() -> None:
    """Let allocations fail before the machine runs out of memory, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

"""Run an answer on all inputs of its exercise, in this process."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Exercise
from qkv.tutorial.exercises.values import Plain, plain


@dataclass(frozen=True)
class Outcome:
    """What an answer did on one draw.

    Args:
        value: its result, as plain values.
        error: type of the exception that it raised; "" if none.
        message: the exception's message, on one line.
        line: line of the learner's code that raised it; 0 if unknown.
        source: that line's text.
        changed: argument that it changed in place; "" if none.
    """

    value: Plain = None
    error: str = ""
    message: str = ""
    line: int = 0
    source: str = ""
    changed: str = ""

    def encoded(self) -> dict[str, Plain]:
        """Return the fields as plain values."""
        return {**asdict(self), "value": self.value}


def run_answer(
    exercise: Exercise, answer: Callable[..., Any], files: tuple[str, ...] = ()
) -> list[Outcome]:
    """Run an answer on all draws, each with the same random numbers, in float64.

    Args:
        exercise: its draws, and how to call the answer.
        answer: the learner's function.
        files: names of the learner's files, whose lines are shown if they raise; none means the
            file that defines the answer.
    """
    files = files or (getattr(getattr(answer, "__code__", None), "co_filename", ""),)
    outcomes = []
    with float64():
        for draw, fresh in zip(exercise.draws(), exercise.draws(), strict=True):
            torch.manual_seed(0)
            try:
                value = plain(exercise.run(answer, draw.inputs))
            except (Exception, SystemExit) as error:
                outcomes.append(raised(error, files))
                continue
            changed = changed_argument(exercise, draw.inputs, fresh.inputs)
            outcomes.append(Outcome(value=value, changed=changed))
    return outcomes


@contextmanager
def float64() -> Iterator[None]:
    """Make float64 the default, as tests compare far more digits than float32 has."""
    before, state = torch.get_default_dtype(), torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.random.set_rng_state(state)


def raised(error: BaseException, files: tuple[str, ...]) -> Outcome:
    """Describe an exception, with the last line of the learner's code that led to it."""
    line, source = 0, ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in files:
            line, source = frame.lineno or 0, frame.line or ""
    message = " ".join(str(error).split())
    return Outcome(
        error=type(error).__name__, message=message[:500], line=line, source=source.strip()
    )


def changed_argument(exercise: Exercise, inputs: tuple[Any, ...], fresh: tuple[Any, ...]) -> str:
    """Return the name of an argument with tensors, lists or dicts that changed; "" if none."""
    names = list(inspect.signature(exercise.solve).parameters)
    for name, one, other in zip(names, inputs, fresh, strict=False):
        if not _unchanged(one, other):
            return name
    return ""


def _unchanged(one: Any, other: Any) -> bool:
    if isinstance(other, Tensor):
        return isinstance(one, Tensor) and torch.equal(one, other)
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(_unchanged(one[k], other[k]) for k in other)
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_unchanged, one, other))
    return True  # numbers and texts cannot change; functions and modules are not compared

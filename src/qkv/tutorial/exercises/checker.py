"""Check an answer: compare it with the reference, then with the known mistakes."""

import textwrap
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from qkv.tutorial.exercises.child import Problem, check_parameters, sentence
from qkv.tutorial.exercises.exercise import Exercise, Mistake
from qkv.tutorial.exercises.parent import LIMIT, Ran, running
from qkv.tutorial.exercises.progress import record_attempt
from qkv.tutorial.exercises.registry import find_exercise
from qkv.tutorial.exercises.running import Outcome, run_answer
from qkv.tutorial.exercises.values import difference


@dataclass(frozen=True)
class Verdict:
    """The result of a check; a notebook shows its message.

    Args:
        right: whether the answer is right.
        message: what a learner reads.
        mistake: name of the mistake; "" if there is none or it is unknown.
    """

    right: bool
    message: str
    mistake: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.message


def check(number: str, answer: Any) -> Verdict:
    """Check a function defined in a notebook, and save the progress.

    Args:
        number: the exercise, such as "2.2".
        answer: the function, or the numbers themselves in an exercise with pencil and paper.

    Raises:
        ConfigError: there is no such exercise.
        StorageError: the progress cannot be written.
    """
    exercise = find_exercise(number)
    verdict = judge(exercise, run_here(exercise, answer))
    record_attempt(number, right=verdict.right, mistake=verdict.mistake)
    return verdict


def check_file(number: str, file: Path, limit: float = LIMIT) -> Verdict:
    """Check the function in a file, in a separate process; the progress is not saved.

    Raises:
        ConfigError: there is no such exercise or file.
    """
    with running(number, file, limit) as finish:
        return judge(find_exercise(number), finish())


def run_here(exercise: Exercise, answer: Any) -> Ran:
    """Run an answer in this process; it can be interrupted like any cell."""
    if not callable(answer):
        if exercise.name != "by_hand":
            return Ran(
                problem=f"The answer is {type(answer).__name__} {answer!r:.80}; expected the "
                f"function itself, as in check({exercise.number!r}, {exercise.name})."
            )
        numbers = answer
        return Ran(run_answer(exercise, lambda: numbers))
    try:
        check_parameters(answer, exercise.solve)
    except Problem as problem:
        return Ran(problem=str(problem))
    with redirect_stdout(StringIO()) as printed:
        outcomes = run_answer(exercise, answer)
    return Ran(outcomes, printed=printed.getvalue())


def judge(exercise: Exercise, ran: Ran) -> Verdict:
    """Compare what an answer returned with the reference and with the known mistakes."""
    if ran.problem:
        return Verdict(False, _wrapped("Not yet.", ran.problem))
    if problem := _not_an_answer(ran):
        return Verdict(False, _wrapped("Not yet.", problem))
    expected = outcomes_of(exercise, exercise.expected)
    wrong = [
        i
        for i, (one, other) in enumerate(zip(ran.outcomes, expected, strict=True))
        if not same(one, other, exercise.close)
    ]
    changed = next((outcome.changed for outcome in ran.outcomes if outcome.changed), "")
    in_place = (
        f"Your function changes its argument {changed} in place, so the caller's tensor is no "
        "longer what it was; expected an unchanged one: work on a copy (clone)."
    )
    if not wrong:
        if changed:
            return Verdict(False, _wrapped("Almost: the result is right.", in_place))
        n = len(expected)
        inputs = "the numbers" if n == 1 else f"all {n} inputs"
        return Verdict(True, _wrapped(f"Right, on {inputs}.", exercise.remark))
    label = exercise.draws()[wrong[0]].label
    first = _first(ran.outcomes[wrong[0]], expected[wrong[0]], exercise.close)
    at = f"On {label}, {first}."
    if len(expected) > 1:
        at += f" (Right on {len(expected) - len(wrong)} of {len(expected)} inputs.)"
    mistake = name_mistake(exercise, ran.outcomes)
    if mistake is not None:
        parts = [f"Not yet: {mistake.name}.", at, mistake.shows, f"Hint: {mistake.hint}"]
        return Verdict(False, _wrapped(*parts), mistake.name)
    parts = ["Not yet.", at, *([in_place] if changed else [])]
    help_ = f"For a hint: qkv exercise hint {exercise.number}"
    return Verdict(False, _wrapped(*parts, help_))


def name_mistake(exercise: Exercise, outcomes: Sequence[Outcome]) -> Mistake | None:
    """Return the known mistake with the same outcome as an answer on every draw."""
    if all(outcome.error for outcome in outcomes):
        return None  # an exception alone identifies no mistake
    for mistake in exercise.mistakes:
        theirs = outcomes_of(exercise, mistake.wrong)
        close = max(mistake.close, exercise.close or 0.0)
        if all(same(*pair, close) for pair in zip(outcomes, theirs, strict=True)):
            return mistake
    return None


@lru_cache(maxsize=512)
def outcomes_of(exercise: "Exercise", answer: Callable[..., Any]) -> tuple[Outcome, ...]:
    """Run a reference or a known mistake, once in this process."""
    return tuple(run_answer(exercise, answer))


def same(one: Outcome, other: Outcome, close: float | None) -> bool:
    """Return whether two outcomes are equal: close values, or the same type of exception."""
    if one.error or other.error:
        return one.error == other.error
    return difference(one.value, other.value, close) is None


def _not_an_answer(ran: Ran) -> str:
    """Say what is wrong if nothing was returned, or nothing was written."""
    errors = [outcome for outcome in ran.outcomes if outcome.error]
    if ran.outcomes[0].error == "NotImplementedError":
        return "Your function is still empty: put your code in place of raise NotImplementedError."
    if not errors and all(_is_nothing(outcome.value) for outcome in ran.outcomes):
        if ran.printed.strip():
            shown = " ".join(ran.printed.split())[:60]
            return (
                f"Your function prints its result ({shown} ...) but returns None; expected a "
                "return statement in place of print."
            )
        return "Your function returns None; is a return statement missing at its end?"
    return ""


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value.get("output", 0) is None)


def _first(theirs: Outcome, expected: Outcome, close: float | None) -> str:
    """Say how an outcome differs, without a final period."""
    if theirs.error:
        return f"your function raises {sentence(theirs)}"
    return difference(theirs.value, expected.value, close) or "the result differs"


def _wrapped(*parts: str) -> str:
    return "\n".join(textwrap.fill(part, 88, break_long_words=False) for part in parts)

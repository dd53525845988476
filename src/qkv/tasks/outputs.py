"""The output of a command: one result per input, in the order of the inputs."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import Any, TypeVar

from qkv.errors import ConfigError, DataError, LengthError, VocabularyError
from qkv.files import write_atomically
from qkv.tasks.inputs import Item, exists
from qkv.tasks.streams import complain, takes_unicode
from qkv.zoo.catalog import Entry

R = TypeVar("R")
AT_ONCE = 4_096  # inputs that are processed before their results are printed
SUFFIXES = (".csv", ".jsonl", ".txt")


class Results:
    """Print results as they come, or collect them and write a file atomically at the end.

    Args:
        line: formats a result as one line.
        as_json: print a JSON object per result instead.
        output: file to write; its suffix determines the format.
        more: further fields of every JSON object and of every row of a .csv file.

    Raises:
        ConfigError: the suffix is unknown, or is not .jsonl while `as_json` is True.
    """

    def __init__(
        self,
        line: Callable[[Any], str],
        *,
        as_json: bool,
        output: Path | None,
        more: Mapping[str, Any],
    ):
        self._line, self._as_json, self._output, self._more = line, as_json, output, more
        self._results: list[Any] = []
        if output is not None and output.suffix not in SUFFIXES:
            raise ConfigError(
                f"--output {output} has the suffix {output.suffix!r}; expected one of "
                f"{', '.join(SUFFIXES)}, or a folder with --shard K/N"
            )
        if output is not None and as_json and output.suffix != ".jsonl":
            raise ConfigError(f"--json with --output {output}; expected a .jsonl file")

    def add(self, result: Any) -> None:
        """Print a result or an error, or keep it for the file."""
        if self._output is not None:
            self._results.append(result)
        elif isinstance(result, Exception):
            print(dumps(self._fields(result)) if self._as_json else "")
        else:
            print(dumps(self._fields(result)) if self._as_json else self._line(result))

    def _fields(self, result: Any) -> dict[str, Any]:
        return fields_of(result, self._more)

    def close(self) -> None:
        """Write the file atomically, if there is one.

        Raises:
            StorageError: it cannot be written.
        """
        if self._output is None:
            return
        if self._output.suffix == ".csv":
            text = _table([self._fields(result) for result in self._results])
        elif self._output.suffix == ".jsonl":
            lines = [json.dumps(self._fields(one), ensure_ascii=False) for one in self._results]
            text = "".join(f"{line}\n" for line in lines)
        else:
            lines = ["" if isinstance(x, Exception) else self._line(x) for x in self._results]
            text = "".join(f"{line}\n" for line in lines)
        write_atomically(self._output, text)
        failed = sum(isinstance(result, Exception) for result in self._results)
        counted = _counted(len(self._results) - failed, "result")
        if failed:
            counted += f" and {_counted(failed, 'error')}"
        complain(f"{counted} written to {self._output}")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def check_output(output: Path | None, items: Sequence[Item]) -> None:
    """Raise ConfigError if the output would replace a file that contains inputs."""
    if output is None or not exists(output):
        return
    for file in dict.fromkeys(file for item in items for file in item.files):
        if output.samefile(file):
            raise ConfigError(
                f"--output {output} would replace the file that contains the inputs; "
                "expected another file"
            )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Format rows as csv; lists and dicts in cells become JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: json.dumps(value, ensure_ascii=False)
                if isinstance(value, dict | list | tuple)
                else value
                for name, value in row.items()
            }
        )
    return file.getvalue()


def answer_all(
    items: Sequence[Item],
    answer: Callable[[list[dict[str, str]]], Iterable[R]],
    *,
    line: Callable[[R], str],
    as_json: bool,
    output: Path | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print or write one result per item, in order; printing starts after `AT_ONCE` items.

    A malformed item gets an empty line, or an object with its error; its problem is also reported
    on standard error.

    Args:
        items: the inputs.
        answer: turns the fields of some items into results, which are dataclasses.
        line: formats a result as one line.
        as_json: print each result as a JSON object with all its fields.
        output: write the results to this file instead.
        more: further fields of every JSON object.

    Raises:
        ConfigError: the output has an unknown suffix, or is a file that inputs were read from.
        DataError: some items have no result; the others were printed or written.
    """
    results = Results(line, as_json=as_json, output=output, more=more)
    check_output(output, items)
    problems: list[str] = []
    some = len(items) > 1 and any(not item.problem for item in items)
    for first in range(0, len(items), AT_ONCE):
        chunk = items[first : first + AT_ONCE]
        for item, result in zip(chunk, results_of(chunk, answer), strict=True):
            if isinstance(result, Exception):
                problems.append(_located(item, result))
            if some or not isinstance(result, Exception):
                results.add(result)
    if len(items) == 1 and problems:
        raise DataError(problems[0])
    results.close()
    if problems:
        for problem in problems:
            complain(problem)
        raise DataError(f"{len(problems):,} of {len(items):,} inputs have no result, see above")


def results_of(
    items: Sequence[Item], answer: Callable[[list[dict[str, str]]], Iterable[R]]
) -> list[R | Exception]:
    """Return a result or an error for each item; see `answer_all`."""
    good = [item for item in items if not item.problem]
    answers = iter(list(_answers(good, answer)))
    return [DataError(item.problem) if item.problem else next(answers) for item in items]


def more_fields(shipped: Entry | None) -> dict[str, Any]:
    """Return the fields that each JSON object has besides those of its prediction."""
    return {"demo": True} if shipped is not None and shipped.demo else {}


def fields_of(result: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a result's JSON object: those of the dataclass, or its error."""
    failed = isinstance(result, Exception)
    return {"error": str(result)} if failed else {**asdict(result), **more}


def _answers(
    items: Sequence[Item], answer: Callable[[list[dict[str, str]]], Iterable[R]]
) -> Iterator[R | Exception]:
    """Process items; bisection isolates an item that makes the others fail."""
    if not items:
        return
    try:
        yield from list(answer([item.fields for item in items]))
    except (DataError, LengthError, VocabularyError) as error:
        if len(items) == 1:
            yield error
            return
        half = len(items) // 2
        yield from _answers(items[:half], answer)
        yield from _answers(items[half:], answer)


def _located(item: Item, problem: Exception) -> str:
    text = str(problem)
    return text if text.startswith(item.where) else f"{item.where}: {text}"


def remark(text: str, note: str) -> None:
    """Report a note on an input to standard error, if there is one."""
    if note:
        complain(f"{shorten(text[:200], 40, placeholder=' ...')!r}: {note}")


def dumps(value: object) -> str:
    """Return JSON in one line; letters are escaped if standard output is not UTF-8."""
    return json.dumps(value, ensure_ascii=not takes_unicode())

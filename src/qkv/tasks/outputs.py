"""What a command prints or writes: one result per input, in the order of the inputs."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from qkv.errors import ConfigError, DataError, LengthError, VocabularyError
from qkv.files import write_atomically
from qkv.tasks.inputs import Item, exists
from qkv.tasks.streams import complain, takes_unicode

R = TypeVar("R")
AT_ONCE = 4_096  # inputs that are answered before the first of them is printed
SUFFIXES = (".csv", ".jsonl", ".txt")


class Results:
    """Results on standard output as they come, or in a file that is written whole at the end.

    Args:
        line: shows a result in one line.
        as_json: show each as an object of JSON instead.
        output: a file; its suffix says how results are written.

    Raises:
        ConfigError: the suffix is unknown, or --json was given with a file of another kind.
    """

    def __init__(self, line: Callable[[Any], str], *, as_json: bool, output: Path | None):
        self._line, self._as_json, self._output = line, as_json, output
        self._results: list[Any] = []
        if output is not None and output.suffix not in SUFFIXES:
            raise ConfigError(
                f"--output {output} has the suffix {output.suffix!r}; expected one of "
                f"{', '.join(SUFFIXES)}"
            )
        if output is not None and as_json and output.suffix != ".jsonl":
            raise ConfigError(f"--json with --output {output}; expected a .jsonl file")

    def add(self, result: Any) -> None:
        """Print a result, or an error in its place, or keep it for the file."""
        if self._output is not None:
            self._results.append(result)
        elif isinstance(result, Exception):
            print(dumps({"error": str(result)}) if self._as_json else "")
        else:
            print(dumps(asdict(result)) if self._as_json else self._line(result))

    def close(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        if self._output is None:
            return
        if self._output.suffix == ".csv":
            text = _table([_fields(result) for result in self._results])
        elif self._output.suffix == ".jsonl":
            lines = [json.dumps(_fields(one), ensure_ascii=False) for one in self._results]
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


def _check_output(output: Path | None, items: Sequence[Item]) -> None:
    """Refuse to replace a file that holds the inputs, before anything is answered."""
    if output is None or not exists(output):
        return
    for file in dict.fromkeys(file for item in items for file in item.files):
        if output.samefile(file):
            raise ConfigError(
                f"--output {output} is the file that the inputs come from, and would replace it; "
                "expected another file"
            )


def _fields(result: Any) -> dict[str, Any]:
    return {"error": str(result)} if isinstance(result, Exception) else asdict(result)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as csv; a cell that is a list or a table is JSON."""
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
) -> None:
    """Print one line per item, in order, as soon as some thousands are answered.

    A malformed item gets an empty line, or an object with its error; the problem is reported on
    standard error, too.

    Args:
        items: the inputs.
        answer: makes results, which are dataclasses, of the fields of the items that it is given.
        line: shows a result in one line.
        as_json: print the whole result, as an object of JSON.
        output: write the results to this file instead.

    Raises:
        ConfigError: the output is of no known kind, or one of the files that were read.
        DataError: some items have no result; the others were printed or written.
    """
    results = Results(line, as_json=as_json, output=output)
    _check_output(output, items)
    problems: list[str] = []
    some = len(items) > 1 and any(not item.problem for item in items)
    for first in range(0, len(items), AT_ONCE):
        chunk = items[first : first + AT_ONCE]
        good = [item for item in chunk if not item.problem]
        answers = iter(list(_answers(good, answer)))
        for item in chunk:
            result = DataError(item.problem) if item.problem else next(answers)
            if isinstance(result, Exception):
                problems.append(_placed(item, result))
            if some or not isinstance(result, Exception):
                results.add(result)
    if len(items) == 1 and problems:
        raise DataError(problems[0])
    results.close()
    if problems:
        for problem in problems:
            complain(problem)
        raise DataError(f"{len(problems):,} of {len(items):,} inputs have no answer, see above")


def _answers(
    items: Sequence[Item], answer: Callable[[list[dict[str, str]]], Iterable[R]]
) -> Iterator[R | Exception]:
    """Answer items; one that breaks the others is found by halving."""
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


def _placed(item: Item, problem: Exception) -> str:
    text = str(problem)
    return text if text.startswith(item.where) else f"{item.where}: {text}"


def remark(text: str, note: str) -> None:
    """Report on standard error what a reader should know about an input, if there is anything."""
    if note:
        complain(f"{shorten(text[:200], 40, placeholder=' ...')!r}: {note}")


def dumps(value: object) -> str:
    """JSON in one line: letters as they are, or escaped where the output is not UTF-8."""
    return json.dumps(value, ensure_ascii=not takes_unicode())

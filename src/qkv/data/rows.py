"""Rows of a table: the requested columns, checks of the fields, and a report of all problems."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.errors import DataError
from qkv.json_fields import quoted, shown

NO_TEXT = re.compile("[\ud800-\udfff]")  # a lone surrogate, also for undecodable bytes
SHOWN = 10  # problems of each kind that a report lists
STRIPPED = "label"  # the column whose values are stripped of surrounding white space

Columns = Mapping[str, str | int]


class RowError(DataError):
    """A problem of one row; `kind` is the same for problems of the same cause."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


# The first of some rows, counted from 0, and the one after the last; None: up to the end.
Span = tuple[int, int | None]
EVERY: Span = (0, None)

# A row's number, and its values by role, or its problem.
Numbered = Iterable[tuple[int, Mapping[str, Any] | RowError]]


@dataclass(frozen=True)
class Row:
    """The requested fields of one row.

    Args:
        line: number of the line where the row begins, from 1; for parquet and the Hub, which have
            no lines, the number of the row.
        fields: the texts by role; empty for a bad row.
        problem: the message for a bad row, with its location.
        kind: the kind of the problem, such as "empty label".
    """

    line: int
    fields: dict[str, str]
    problem: str = ""
    kind: str = ""


def find_columns(
    where: Path | str, columns: Columns, present: Sequence[str], hint: str = ""
) -> dict[str, str]:
    """Return the names of the requested columns by role; white space around names is ignored.

    Raises:
        DataError: a column is missing or occurs twice; the message lists all columns.
    """
    stripped = [name.strip() for name in present]
    named = {}
    for role, column in columns.items():
        name = str(column).strip()
        if (count := stripped.count(name)) != 1:
            raise DataError(
                f"{where} has {f'{count} columns' if count else 'no column'} {shown(name)}; its "
                f"columns are {_some(stripped)} ({hint}is the name right?)"
            )
        named[role] = present[stripped.index(name)]
    return named


def check_rows(where: Path | str, unit: str, rows: Numbered) -> Iterator[Row]:
    """Check that all fields are non-empty texts, row by row; bad rows get a problem.

    Args:
        where: name of the table.
        unit: "line" or "row", what the numbers count.
        rows: number and values by role of each row.

    Raises:
        DataError: there are no rows.
    """
    line = None
    for line, values in rows:
        error = (
            values
            if isinstance(values, RowError)
            else _problem(f"{where}, {unit} {line}: the", values)
        )
        if error is not None or isinstance(values, RowError):
            yield Row(line, {}, str(error), error.kind if error else "")
            continue
        fields = {role: str(value) for role, value in values.items()}
        if STRIPPED in fields:
            fields[STRIPPED] = fields[STRIPPED].strip()
        yield Row(line, fields)
    if line is None:
        raise DataError(f"{where} is empty; expected a table with at least one row")


def good_rows(
    path: str | os.PathLike[str], rows: Sequence[Row], problems: list[str] | None = None
) -> list[Row]:
    """Return the rows without problems.

    Args:
        path: name of the table.
        rows: rows from `check_rows`.
        problems: receives the problems of bad rows, which are left out; if None, they are an error.

    Raises:
        DataError: there are bad rows and `problems` is None, or all rows are bad; the message is
            that of `report_problems`.
    """
    bad = [row for row in rows if row.problem]
    if bad and (problems is None or len(bad) == len(rows)):
        raise DataError(report_problems(path, rows))
    if problems is not None:
        problems += [row.problem for row in bad]
    return [row for row in rows if not row.problem]


def report_problems(path: str | os.PathLike[str], rows: Sequence[Row]) -> str:
    """Describe all problems of a table: per kind their number, the first one, and ten lines.

    A single problem is described by its own message; without problems the report is empty.
    """
    bad = [row for row in rows if row.problem]
    if len(bad) < 2:
        return "".join(row.problem for row in bad)
    lines = [f"{len(bad):,} of the {len(rows):,} rows of {path} have problems:"]
    for kind in dict.fromkeys(row.kind for row in bad):
        first, *others = [row for row in bad if row.kind == kind]
        lines.append(f"- {kind} ({1 + len(others):,}): {first.problem.removeprefix(f'{path}, ')}")
        if others:
            unit = "rows" if f", row {first.line}" in first.problem else "lines"
            listed = ", ".join(f"{row.line:,}" for row in others[: SHOWN - 1])
            more = f" and {len(others) - SHOWN + 1:,} more" if len(others) >= SHOWN else ""
            lines.append(f"  also in {unit} {listed}{more}")
    return "\n".join(lines)


def _problem(where: str, values: Mapping[str, Any]) -> RowError | None:
    """Return the problem of a row's values, if there is one."""
    for role, value in values.items():
        if value is None or (isinstance(value, str) and not value.strip()):
            return RowError(
                f"empty {role}",
                f"{where} {role} is empty ({shown(value)}); expected a text: fill it in, or leave "
                "the row out (or is this a test split with hidden labels?)",
            )
        if not isinstance(value, str | int):
            return RowError(
                f"{role} of another type",
                f"{where} {role} is a {type(value).__name__}, {shown(value)}; expected a text or a "
                "whole number",
            )
        if isinstance(value, str) and NO_TEXT.search(value):
            return RowError(
                f"invalid characters in the {role}",
                f"{where} {role} has invalid characters: {quoted(value)} (another encoding, such "
                "as latin-1?)",
            )
    return None


def _some(names: Sequence[str], most: int = 20) -> str:
    """Return names for a message, truncated to `most`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(quoted(name, 40) for name in names[:most]) + more

"""Rows of a table: which columns are asked for, and what a field must be."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.errors import DataError
from qkv.json_fields import quoted, shown

NO_TEXT = re.compile("[\ud800-\udfff]")  # half of a pair, or a byte that could not be decoded

Columns = Mapping[str, str | int]
# A row's number, and its values by role, or what is wrong with it.
Numbered = Iterable[tuple[int, Mapping[str, Any] | DataError]]


@dataclass(frozen=True)
class Row:
    """What was asked of one row.

    Args:
        line: of the file, where the row begins, counted from 1; in parquet and on the Hub, which
            have no lines, the row's number.
        fields: the texts by the names that the reader gave them; none of a broken row.
        problem: what is wrong with the row, and where it stands.
    """

    line: int
    fields: dict[str, str]
    problem: str = ""


def find_columns(
    where: Path | str, columns: Columns, present: Sequence[str], hint: str = ""
) -> dict[str, str]:
    """The wanted columns by role.

    Raises:
        DataError: one does not stand in the table, or stands there twice; the message lists all.
    """
    found = {role: str(column) for role, column in columns.items()}
    for name in found.values():
        if present.count(name) != 1:
            number = present.count(name)
            raise DataError(
                f"{where} has {f'{number} columns' if number else 'no column'} {shown(name)}; its "
                f"columns are {_some(present)} ({hint}is the name right?)"
            )
    return found


def check_rows(
    where: Path | str, unit: str, rows: Numbered, *, tolerant: bool = False
) -> list[Row]:
    """Rows whose fields are texts, none of them empty.

    Args:
        where: the table's name.
        unit: what a row's number counts, lines or rows.
        rows: as they were read.
        tolerant: whether a broken row is kept, with its problem, and not raised.

    Raises:
        DataError: no rows; a field is empty, or neither a text nor a whole number.
    """
    checked = []
    for line, values in rows:
        problem = (
            values
            if isinstance(values, DataError)
            else _problem(f"{where}, {unit} {line}: the", values)
        )
        if problem is not None and not tolerant:
            raise problem
        if problem is not None or isinstance(values, DataError):
            checked.append(Row(line, {}, str(problem)))
        else:
            checked.append(Row(line, {role: str(value) for role, value in values.items()}))
    if not checked:
        raise DataError(f"{where} is empty: expected a table with a row or more")
    return checked


def _problem(where: str, values: Mapping[str, Any]) -> DataError | None:
    """What is wrong with the values of a row."""
    for role, value in values.items():
        if value is None or (isinstance(value, str) and not value.strip()):
            return DataError(
                f"{where} {role} is empty ({shown(value)}), expected a text; leave such rows out "
                "(or is this a test part whose labels are hidden?)"
            )
        if not isinstance(value, str | int):
            return DataError(
                f"{where} {role} is a {type(value).__name__}, {shown(value)}; expected a text or a "
                "whole number"
            )
        if isinstance(value, str) and NO_TEXT.search(value):
            return DataError(
                f"{where} {role} is no text: {quoted(value)} (another encoding than said?)"
            )
    return None


def _some(names: Sequence[str], most: int = 20) -> str:
    """Names for a message, of a table that may have thousands."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(quoted(name, 40) for name in names[:most]) + more

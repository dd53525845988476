"""Rows of a table: which columns are asked for, and what a field must be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.errors import DataError

Columns = Mapping[str, str | int]
Numbered = Iterable[tuple[int, Mapping[str, Any]]]  # a row's number, and its values by role


@dataclass(frozen=True)
class Row:
    """What was asked of one row.

    Args:
        line: of the file, where the row begins, counted from 1; in parquet and on the Hub, which
            have no lines, the row's number.
        fields: the texts by the names that the reader gave them.
    """

    line: int
    fields: dict[str, str]


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
                f"{where} has {f'{number} columns' if number else 'no column'} {name!r}; its "
                f"columns are {', '.join(map(repr, present))} ({hint}is the name right?)"
            )
    return found


def check_rows(where: Path | str, unit: str, rows: Numbered) -> list[Row]:
    """Rows whose fields are texts, none of them empty.

    Args:
        where: the table's name.
        unit: what a row's number counts, lines or rows.
        rows: as they were read.

    Raises:
        DataError: no rows; a field is empty, or neither a text nor a whole number.
    """
    checked = []
    for line, values in rows:
        for role, value in values.items():
            if value is None or (isinstance(value, str) and not value.strip()):
                raise DataError(
                    f"{where}, {unit} {line}: the {role} is empty ({value!r}), expected a text; "
                    "leave such rows out (or is this a test part whose labels are hidden?)"
                )
            if not isinstance(value, str | int):
                raise DataError(
                    f"{where}, {unit} {line}: the {role} is a {type(value).__name__}, {value!r}; "
                    "expected a text or a whole number"
                )
        checked.append(Row(line, {role: str(value) for role, value in values.items()}))
    if not checked:
        raise DataError(f"{where} is empty: expected a table with a row or more")
    return checked

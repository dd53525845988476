"""Lines of fields, such as csv and tsv: with quotes by the standard library, without by hand."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from qkv.errors import DataError

Record = tuple[int, list[str]]  # the line where it begins, counted from 1, and its fields
Checked = tuple[int, list[str] | DataError]


def read_delimited(
    path: Path, text: str, *, separator: str, quoting: bool, header: bool
) -> tuple[list[str], list[Checked]]:
    r"""The columns' names and the rows: as many fields in each, or the error in its place.

    As everywhere, only \n and \r\n end a line. Blank lines at the end are no rows.

    Args:
        path: what errors call the table.
        text: not blank.
        separator: between the fields of a line.
        quoting: whether double quotes hold a field together, over several lines even.
        header: whether the first line holds the names; else they are the numbers from 0.

    Raises:
        DataError: no row, or quotes that do not match.
    """
    split = _split_quoted if quoting else _split_plain
    records = list(split(path, text, separator))
    while not records[-1][1]:
        records.pop()
    first_line, first = records[0]
    rows = records[1:] if header else records
    if not rows:
        raise DataError(f"{path} has a header and nothing else: expected a row or more")
    where = f"expected {len(first)} as in line {first_line}"
    checked = [
        (line, fields)
        if len(fields) == len(first)
        else (
            line,
            DataError(
                f"{path}, line {line}, has {len(fields)} fields, {where} (a {separator!r} too many "
                "inside a text, or a blank line?)"
            ),
        )
        for line, fields in rows
    ]
    return first if header else [str(number) for number in range(len(first))], checked


def _split_plain(path: Path, text: str, separator: str) -> Iterator[Record]:
    for line, content in enumerate(text.split("\n"), start=1):
        content = content.removesuffix("\r")
        yield line, content.split(separator) if content else []


def _split_quoted(path: Path, text: str, separator: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, in the row that begins at line {line}: {error} (a quote that is not closed, "
            'or not doubled as in "a ""word"" here"? quoting = False reads quotes as text)'
        ) from error

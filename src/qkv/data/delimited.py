"""Delimited text, such as csv and tsv, with problems located by line."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from qkv.data.rows import RowError
from qkv.errors import DataError

# The line where a row begins, counted from 1, and its fields, or its problem.
Checked = tuple[int, list[str] | RowError]
LARGEST = 2**31 - 1  # characters of a field; fits a C long anywhere (Python's limit is 131,072)
AHEAD = 200  # lines that are inspected to find the next good row


def read_delimited(
    path: Path, text: str, *, separator: str, quoting: bool, header: bool
) -> tuple[list[str], list[Checked]]:
    r"""Return the names of the columns and the rows: equally many fields in each, or the error.

    Only \n and \r\n end a line. Blank lines are skipped, as in pandas. A row with unmatched quotes
    does not affect the other rows.

    Args:
        path: name of the table in errors.
        text: content, not blank.
        separator: between the fields of a line.
        quoting: whether double quotes enclose fields, which may then span lines.
        header: whether the first line has the names; else they are the numbers from 0.

    Raises:
        DataError: there are no rows, or no header.
    """
    split = _split_quoted if quoting else _split_plain
    records = [record for record in split(path, text, separator) if record[1] != []]
    whole = ((line, fields) for line, fields in records if not isinstance(fields, RowError))
    first_line, first = next(whole, (0, []))
    problem = records[0][1]
    if isinstance(problem, RowError) and (header or not first):
        raise problem
    rows = records[1:] if header else records
    if not rows:
        raise DataError(f"{path} has only a header; expected at least one row")
    where = f"expected {len(first)} as in line {first_line}"
    checked = [
        (line, fields)
        if isinstance(fields, RowError) or len(fields) == len(first)
        else (
            line,
            RowError(
                "wrong number of fields",
                f"{path}, line {line}, has {len(fields)} fields, {where} (is there a {separator!r} "
                "inside a text?)",
            ),
        )
        for line, fields in rows
    ]
    return first if header else [str(number) for number in range(len(first))], checked


def _split_plain(path: Path, text: str, separator: str) -> Iterator[Checked]:
    for line, content in enumerate(text.split("\n"), start=1):
        content = content.removesuffix("\r")
        yield line, content.split(separator) if content else []


def _split_quoted(path: Path, text: str, separator: str) -> Iterator[Checked]:
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST))
    *ended, last = text.split("\n")
    lines = [*(f"{line}\n" for line in ended), *([last] if last else [])]
    n_fields, at = None, 0
    while at < len(lines):
        for start, end, row in _until_error(lines, at, separator):
            if isinstance(row, csv.Error):
                yield start + 1, _explained(path, start + 1, row)
                at = _next_row(lines, start, len(lines), n_fields, separator)
                break
            n_fields = n_fields or len(row)
            yield start + 1, row
            # Perhaps an unclosed quote was closed by one that opens a field, far below.
            swallowed = end > start + 1 and len(row) != n_fields
            at = _next_row(lines, start, end, n_fields, separator) if swallowed else end
            if at != end:
                break


def _until_error(
    lines: Sequence[str], at: int, separator: str
) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """Yield the rows from a line on: first line, line after the last, fields or the error.

    An error is the last item.
    """
    rest = (lines[i] for i in range(at, len(lines)))
    reader, start = csv.reader(rest, delimiter=separator, strict=True), at
    try:
        for fields in reader:
            yield start, at + reader.line_num, fields
            start = at + reader.line_num
    except csv.Error as error:
        yield start, at + reader.line_num, error


def _next_row(
    lines: Sequence[str], start: int, stop: int, n_fields: int | None, separator: str
) -> int:
    """Return the line where the next row begins, after a bad row.

    This is the next line if a quote was not closed; if a quote inside was not doubled, all lines of
    the row are skipped.
    """
    if n_fields is None:
        return start + 1
    for at in range(start + 1, stop):
        if _begins_row(lines[at : at + AHEAD], n_fields, separator):
            return at
    return stop


def _begins_row(lines: Sequence[str], n_fields: int, separator: str) -> bool:
    """Return whether a row begins here, judging by the line itself and the next row."""
    if _is_tail(lines[0], separator):
        return False
    ahead = list(islice(_until_error(lines, 0, separator), 2))
    _, end, first = ahead[0]
    if isinstance(first, csv.Error) or len(first) != n_fields:
        return '"' in lines[0]  # another bad row
    if len(ahead) == 1:
        return True
    second = ahead[1][2]
    whole = not isinstance(second, csv.Error) and len(second) == n_fields
    return whole or not _is_tail(lines[end], separator)


def _is_tail(line: str, separator: str) -> bool:
    """Return whether the first quote of a line is more likely to close a field than to open one."""
    at = line.find('"')
    if at > 0:
        return line[at - 1] != separator
    return at == 0 and line[1:2] in (separator, "\r", "\n", "")


def _explained(path: Path, line: int, error: csv.Error) -> RowError:
    return RowError(
        "broken quotes",
        f"{path}, in the row that begins at line {line}: {error} (a quote that is not closed, or "
        'not doubled as in "a ""word"" here"? quoting = False reads quotes as text)',
    )

"""Delimited text, such as csv and tsv, with problems located by line."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from qkv.data.rows import RowError
from qkv.errors import DataError

# The line where a row begins, counted from 1, and its fields, or its problem.
Checked = tuple[int, list[str] | RowError]
LARGEST = 2**31 - 1  # characters of a field; fits a C long anywhere (Python's limit is 131,072)
AHEAD = 200  # lines that are inspected to find the next good row


class _Lines:
    """A window on the lines of a file; lines before the last row read are dropped.

    Args:
        lines: the lines, with their ends.
    """

    def __init__(self, lines: Iterator[str]):
        self._coming, self._kept, self._first = lines, list[str](), 0

    def has(self, at: int) -> bool:
        """Return whether there is a line with this number, counted from 0."""
        while at >= self._first + len(self._kept):
            line = next(self._coming, None)
            if line is None:
                return False
            self._kept.append(line)
        return True

    def since(self, at: int) -> Iterator[str]:
        """Yield the lines from this number on."""
        while self.has(at):
            yield self._kept[at - self._first]
            at += 1

    def forget(self, before: int) -> None:
        """Drop earlier lines, many at a time."""
        gone = before - self._first
        if gone > AHEAD and 2 * gone > len(self._kept):
            del self._kept[:gone]
            self._first = before


def read_delimited(
    path: Path, lines: Iterator[str], *, separator: str, quoting: bool, header: bool
) -> tuple[list[str], Iterator[Checked]]:
    r"""Return the column names, and the rows: as many fields in each, or an error.

    Only \n and \r\n end a line. Blank lines are skipped, as in pandas. A row with unmatched quotes
    does not affect the other rows. Rows are read on demand; after an unclosed quote the rest of the
    file is one row, until its end is read.

    Args:
        path: name of the table in errors.
        lines: lines with their ends, not all of them blank.
        separator: separates the fields of a line.
        quoting: whether double quotes enclose fields, which may then span lines.
        header: whether the first line names the columns; else they are numbered from 0.

    Raises:
        DataError: there are no rows, or no header.
    """
    split = _split_quoted if quoting else _split_plain
    records = (record for record in split(path, lines, separator) if record[1] != [])
    before = list[tuple[int, RowError]]()  # bad rows before the first whole one
    first_line, first = 0, list[str]()
    for line, fields in records:
        if not isinstance(fields, RowError):
            first_line, first = line, fields
            break
        before.append((line, fields))
        if header:
            raise fields
    if not first:
        raise before[0][1]
    rows = records if header else chain(before, [(first_line, first)], records)
    one = next(rows, None)
    if one is None:
        raise DataError(f"{path} has only a header; expected at least one row")
    checked = _checked(path, chain([one], rows), len(first), first_line, separator)
    return first if header else [str(number) for number in range(len(first))], checked


def _checked(
    path: Path, rows: Iterable[Checked], n_fields: int, first_line: int, separator: str
) -> Iterator[Checked]:
    """Replace rows whose number of fields differs from the first row's with errors."""
    where = f"expected {n_fields} as in line {first_line}"
    for line, fields in rows:
        if isinstance(fields, RowError) or len(fields) == n_fields:
            yield line, fields
            continue
        problem = (
            f"{path}, line {line}, has {len(fields)} fields, {where} (is there a {separator!r} "
            "inside a text?)"
        )
        yield line, RowError("wrong number of fields", problem)


def _split_plain(path: Path, lines: Iterator[str], separator: str) -> Iterator[Checked]:
    for line, content in enumerate(lines, start=1):
        content = content.removesuffix("\n").removesuffix("\r")
        yield line, content.split(separator) if content else []


def _split_quoted(path: Path, coming: Iterator[str], separator: str) -> Iterator[Checked]:
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST))
    lines, n_fields, at = _Lines(coming), None, 0
    while lines.has(at):
        for start, end, row in _until_error(lines.since(at), at, separator):
            if isinstance(row, csv.Error):
                yield start + 1, _explained(path, start + 1, row)
                at = _next_row(lines, start, None, n_fields, separator)
                break
            n_fields = n_fields or len(row)
            yield start + 1, row
            # Perhaps an unclosed quote was closed by one that opens a field, far below.
            swallowed = end > start + 1 and len(row) != n_fields
            at = _next_row(lines, start, end, n_fields, separator) if swallowed else end
            if at != end:
                break
            lines.forget(end)


def _until_error(
    lines: Iterator[str], at: int, separator: str
) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """Yield the rows from line `at` on: first line, line after the last, fields or the error.

    An error is the last item.
    """
    reader, start = csv.reader(lines, delimiter=separator, strict=True), at
    try:
        for fields in reader:
            yield start, at + reader.line_num, fields
            start = at + reader.line_num
    except csv.Error as error:
        yield start, at + reader.line_num, error


def _next_row(
    lines: _Lines, start: int, stop: int | None, n_fields: int | None, separator: str
) -> int:
    """Return the line where the next row begins, after a bad row that ends before `stop`.

    This is the next line if a quote was not closed; if a quote inside was not doubled, all lines of
    the row are skipped.
    """
    at = start + 1
    if n_fields is None:
        return at
    while at != stop and lines.has(at):
        if _begins_row(list(islice(lines.since(at), AHEAD)), n_fields, separator):
            return at
        at += 1
    return at


def _begins_row(lines: Sequence[str], n_fields: int, separator: str) -> bool:
    """Return whether a row begins here, judging by the line itself and the next row."""
    if _is_tail(lines[0], separator):
        return False
    ahead = list(islice(_until_error(iter(lines), 0, separator), 2))
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

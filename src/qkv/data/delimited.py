"""Lines of fields, such as csv and tsv: with quotes by the standard library, without by hand."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from qkv.errors import DataError

# The line where a row begins, counted from 1, and its fields, or what is wrong with it.
Checked = tuple[int, list[str] | DataError]
LARGEST = 2**31 - 1  # characters of a field, which fit a C long anywhere; Python says 131,072
AHEAD = 200  # lines that are looked at to tell whether rows are whole again


def read_delimited(
    path: Path, text: str, *, separator: str, quoting: bool, header: bool
) -> tuple[list[str], list[Checked]]:
    r"""The columns' names and the rows: as many fields in each, or the error in its place.

    As everywhere, only \n and \r\n end a line. Blank lines are passed over, as pandas does. A row
    whose quotes do not match takes no others with it.

    Args:
        path: what errors call the table.
        text: not blank.
        separator: between the fields of a line.
        quoting: whether double quotes hold a field together, over several lines even.
        header: whether the first line holds the names; else they are the numbers from 0.

    Raises:
        DataError: no row, or no header.
    """
    split = _split_quoted if quoting else _split_plain
    records = [record for record in split(path, text, separator) if record[1] != []]
    whole = ((line, fields) for line, fields in records if not isinstance(fields, DataError))
    first_line, first = next(whole, (0, []))
    problem = records[0][1]
    if isinstance(problem, DataError) and (header or not first):
        raise problem
    rows = records[1:] if header else records
    if not rows:
        raise DataError(f"{path} has a header and nothing else: expected a row or more")
    where = f"expected {len(first)} as in line {first_line}"
    checked = [
        (line, fields)
        if isinstance(fields, DataError) or len(fields) == len(first)
        else (
            line,
            DataError(
                f"{path}, line {line}, has {len(fields)} fields, {where} (a {separator!r} too many "
                "inside a text?)"
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
        for start, end, found in _until_error(lines, at, separator):
            if isinstance(found, csv.Error):
                yield start + 1, _explained(path, start + 1, found)
                at = _next_row(lines, start, len(lines), n_fields, separator)
                break
            n_fields = n_fields or len(found)
            yield start + 1, found
            # Perhaps a quote that was not closed met one that begins a field, far below.
            swallowed = end > start + 1 and len(found) != n_fields
            at = _next_row(lines, start, end, n_fields, separator) if swallowed else end
            if at != end:
                break


def _until_error(
    lines: Sequence[str], at: int, separator: str
) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """Rows from a line on: the line where each begins, the one after it, its fields or the error.

    After an error there are no more.
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
    """The line where the next row begins, after the one where a broken row does.

    It is the next line where a quote was not closed; where one inside was not doubled, all lines of
    the row are passed over.
    """
    if n_fields is None:
        return start + 1
    for at in range(start + 1, stop):
        if _begins_row(lines[at : at + AHEAD], n_fields, separator):
            return at
    return stop


def _begins_row(lines: Sequence[str], n_fields: int, separator: str) -> bool:
    """Whether a row begins here, to judge by itself and by what follows it."""
    if _is_tail(lines[0], separator):
        return False
    ahead = list(islice(_until_error(lines, 0, separator), 2))
    _, end, first = ahead[0]
    if isinstance(first, csv.Error) or len(first) != n_fields:
        return '"' in lines[0]  # a broken row of its own
    if len(ahead) == 1:
        return True
    second = ahead[1][2]
    whole = not isinstance(second, csv.Error) and len(second) == n_fields
    return whole or not _is_tail(lines[end], separator)


def _is_tail(line: str, separator: str) -> bool:
    """Whether the first quote of a line is more likely to close a field than to open one."""
    at = line.find('"')
    if at > 0:
        return line[at - 1] != separator
    return at == 0 and line[1:2] in (separator, "\r", "\n", "")


def _explained(path: Path, line: int, error: csv.Error) -> DataError:
    return DataError(
        f"{path}, in the row that begins at line {line}: {error} (a quote that is not closed, or "
        'not doubled as in "a ""word"" here"? quoting = False reads quotes as text)'
    )

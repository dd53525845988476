"""Tables of texts: csv, tsv, JSON lines, parquet, and data sets of the Hub."""

import codecs
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, Literal

from qkv.data.delimited import Checked, read_delimited
from qkv.data.hub import read_hub
from qkv.data.rows import (
    EVERY,
    Columns,
    Numbered,
    Row,
    RowError,
    Span,
    check_rows,
    find_columns,
    good_rows,
)
from qkv.data.text import decode, iterate_lines, read_content, reading
from qkv.errors import ConfigError, DataError, MissingDependencyError

BATCH, BUFFER = 1_024, 2**20  # rows and bytes of a parquet file that are read at once
KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(\[(?P<split>[\w.]+)\])?")


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """File format options; None means inferred from the file name.

    Args:
        kind: the format; jsonl has one object per line.
        header: whether the first line of csv or tsv names the columns.
        quoting: whether double quotes enclose fields; by default in csv, but not in tsv.
        separator: separates the fields of a line; by default a tab in tsv, and in csv a comma, or a
            semicolon if the first line has one and no comma, as spreadsheets write csv in countries
            with decimal commas.
        encoding: Python's name of the text encoding.

    Raises:
        ConfigError: an unknown encoding, or a separator that is not a single character.
    """

    kind: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    header: bool = True
    quoting: bool | None = None
    separator: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check the separator and the encoding."""
        if self.separator is not None and len(self.separator) != 1:
            raise ConfigError(f"separator = {self.separator!r}; expected a single character")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ConfigError(
                f"encoding = {self.encoding!r} is unknown; expected a name such as utf-8, latin-1 "
                "or utf-16"
            ) from error


DEFAULT = TableLayout()


def read_table(
    path: str | os.PathLike[str],
    columns: Columns,
    layout: TableLayout = DEFAULT,
    *,
    keep_bad_rows: bool = False,
) -> list[Row]:
    """Read the requested columns of a table, and check that no field is empty.

    A name that is not a file, such as "owner/name", is looked for on the Hub (see `read_hub`);
    "owner/name:config[validation]" also names the configuration, and the split if not "train".
    White space around column names and around labels is removed.

    Args:
        path: path of a .csv, .tsv, .jsonl, .json (lines) or .parquet file, also with .gz after it.
        columns: column by role: its name or, in a table without header, its number from 0; values
            of the role "label" are stripped.
        layout: file format options.
        keep_bad_rows: return bad rows, with their problem, instead of raising.

    Raises:
        DataError: the file is missing, empty, damaged or in another encoding; a column is missing;
            rows are bad (see `report_problems`): too few or too many fields, an empty field, or one
            that is not text.
        ConfigError: the layout has options that the format does not have.
        MissingDependencyError: parquet and the Hub need packages that may not be installed.
    """
    rows = list(iterate_table(path, columns, layout))
    return rows if keep_bad_rows else good_rows(path, rows)


def iterate_table(
    path: str | os.PathLike[str],
    columns: Columns,
    layout: TableLayout = DEFAULT,
    span: Span = EVERY,
) -> Iterator[Row]:
    """Yield the rows of a table one by one, including bad ones, without loading whole files.

    Other arguments and errors are those of `read_table`; errors are raised when the row is reached.
    Data sets of the Hub, and parquet in .gz, are held in memory.

    Args:
        path: path of the table.
        columns: column name by role.
        layout: file format options.
        span: the rows; the others are skipped quickly.
    """
    hub, known = HUB_NAME.fullmatch(str(path)), layout.kind or KINDS.get(_suffix(path))
    if hub and known is None and not Path(path).exists():
        split = hub["split"] or "train"
        rows = read_hub(hub["name"], columns, config=hub["config"], split=split)
        yield from islice(rows, *span)
        return
    path = Path(path)
    kind = _check_kind(path, known, layout)
    if kind == "parquet":
        yield from check_rows(path, "row", _read_parquet(path, columns, span))
        return
    if kind == "jsonl":
        numbered = _read_json_lines(path, columns, layout, span)
    else:
        numbered = _read_fields(path, columns, kind, layout, span)
    yield from check_rows(path, "line", numbered)


def count_rows(path: str | os.PathLike[str], layout: TableLayout = DEFAULT) -> int:
    """Return the number of rows that `iterate_table` yields for a file.

    Raises:
        ConfigError, DataError, MissingDependencyError: as `read_table`.
    """
    path = Path(path)
    kind = _check_kind(path, layout.kind or KINDS.get(_suffix(path)), layout)
    if kind == "parquet":
        with _open_parquet(path) as table:
            return table.metadata.num_rows
    rows = _lines(path, layout) if kind == "jsonl" else _open_fields(path, kind, layout)[2]
    return sum(1 for _ in rows)


def read_text(
    path: str | os.PathLike[str], encoding: str = "utf-8", *, tolerant: bool = False
) -> str:
    """Read the text of a file, plain or .gz, with its line ends, without a byte-order mark.

    Args:
        path: path of the file.
        encoding: encoding of its text.
        tolerant: keep undecodable bytes, as `surrogateescape` does.

    Raises:
        DataError: the file is missing, empty, damaged or in another encoding.
    """
    text = decode(read_content(path), path, encoding, tolerant=tolerant)
    if not text.strip():
        raise DataError(f"{path} is empty; expected text")
    return text


def _check_kind(path: Path, kind: str | None, layout: TableLayout) -> str:
    if kind is None and not path.exists():
        raise DataError(f"cannot read {path}: there is no such file (is the path right?)")
    if kind is None:
        raise DataError(
            f"the name of {path} does not tell its format; expected {', '.join(KINDS)} "
            "(or with .gz after it), or a layout with its kind"
        )
    encoding = DEFAULT.encoding if kind == "parquet" else layout.encoding
    if kind in ("jsonl", "parquet") and layout != TableLayout(kind=layout.kind, encoding=encoding):
        raise ConfigError(
            f"{layout} for {path}: in {kind} the columns have names and the fields ends; expected "
            "a csv or tsv, or nothing but the kind" + " and the encoding" * (kind == "jsonl")
        )
    return kind


def _read_fields(
    path: Path, columns: Columns, kind: str, layout: TableLayout, span: Span
) -> Numbered:
    separator, names, rows = _open_fields(path, kind, layout)
    hint = f"is {separator!r} the separator, is header = {layout.header} right, or "
    present = find_columns(path, columns, names, hint)
    indices = {role: names.index(name) for role, name in present.items()}
    for line, fields in islice(rows, *span):
        if isinstance(fields, RowError):
            yield line, fields
        else:
            yield line, {role: fields[i] for role, i in indices.items()}


def _open_fields(
    path: Path, kind: str, layout: TableLayout
) -> tuple[str, list[str], Iterator[Checked]]:
    """Return the separator, the names of the columns, and the rows."""
    lines = iterate_lines(path, layout.encoding)
    first = next(lines)
    usual = "\t" if kind == "tsv" else ";" if ";" in first and "," not in first else ","
    names, rows = read_delimited(
        path,
        chain([first], lines),
        separator=layout.separator or usual,
        quoting=kind == "csv" if layout.quoting is None else layout.quoting,
        header=layout.header,
    )
    return layout.separator or usual, names, rows


def _read_json_lines(path: Path, columns: Columns, layout: TableLayout, span: Span) -> Numbered:
    for line, content in islice(_lines(path, layout), *span):
        yield line, _json_fields(f"{path}, line {line},", content, columns)


def _lines(path: Path, layout: TableLayout) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    for line, content in enumerate(iterate_lines(path, layout.encoding), start=1):
        if content.strip():
            yield line, content.removesuffix("\n")


def _json_fields(where: str, content: str, columns: Columns) -> Mapping[str, Any] | RowError:
    """The fields of a line, or its problem."""
    try:
        row = json.loads(content)
    except RecursionError:
        return RowError("not JSON", f"{where} is nested too deeply; expected an object of texts")
    except ValueError as error:
        return RowError(
            "not JSON", f"{where} is not JSON: {error} (one object over several lines?)"
        )
    if not isinstance(row, dict):
        return RowError(
            "not an object",
            f"{where} is a JSON {type(row).__name__}, expected an object in each line, such as "
            '{"text": "...", "label": "..."}',
        )
    try:
        present = find_columns(where, columns, list(row))
    except DataError as error:
        return RowError("missing column", str(error))
    return {role: row[name] for role, name in present.items()}


def _read_parquet(path: Path, columns: Columns, span: Span) -> Numbered:
    with _open_parquet(path) as table:
        present = find_columns(path, columns, table.schema_arrow.names)
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        starts = list(accumulate(sizes, initial=0))
        first = max(bisect_right(starts, span[0]) - 1, 0)
        batches = table.iter_batches(
            BATCH,
            row_groups=list(range(first, len(sizes))),
            columns=list(set(present.values())),
        )
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        numbered = enumerate(rows, start=starts[first] + 1)
        skipped = starts[first]
        for number, row in islice(numbered, span[0] - skipped, span[1] and span[1] - skipped):
            yield number, {role: row[name] for role, name in present.items()}


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            f'{path} is a parquet file, which needs pyarrow: pip install "qkv[train]"'
        ) from error
    whole = BytesIO(read_content(path)) if path.suffix == ".gz" else None
    try:
        with reading(path) as file:
            yield parquet.ParquetFile(whole or file, buffer_size=BUFFER)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not a complete parquet file: {error} (is it truncated?)"
        ) from error


def _suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of the name in lower case, without .gz."""
    return Path(str(path).lower().removesuffix(".gz")).suffix

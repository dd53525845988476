"""Tables of texts: csv, tsv, JSON lines, parquet, and data sets of the Hub."""

import codecs
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qkv.data.delimited import read_delimited
from qkv.data.hub import read_hub
from qkv.data.rows import (
    Columns,
    Numbered,
    Row,
    RowError,
    check_rows,
    find_columns,
    good_rows,
)
from qkv.data.text import decode, read_content
from qkv.errors import ConfigError, DataError, MissingDependencyError

KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(\[(?P<split>[\w.]+)\])?")


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """File format options; None means inferred from the file name.

    Args:
        kind: the format; jsonl has one object per line.
        header: whether the first line of csv or tsv names the columns.
        quoting: whether double quotes enclose fields; by default in csv, but not in tsv.
        separator: between the fields of a line; by default a tab in tsv, and in csv a comma, or a
            semicolon if the first line has one and no comma, as spreadsheets write csv in countries
            with decimal commas.
        encoding: of the text, by Python's name.

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
        path: of a .csv, .tsv, .jsonl, .json (lines) or .parquet file, also with .gz after it.
        columns: role to the name of its column, or, in a table without header, to its number
            counted from 0; values of the role "label" are stripped.
        layout: file format options.
        keep_bad_rows: return bad rows, with their problem, instead of raising.

    Raises:
        DataError: the file is missing, empty, damaged or in another encoding; a column is missing;
            rows are bad (see `report_problems`): too few or too many fields, an empty field, or one
            that is not text.
        ConfigError: the layout has options that the format does not have.
        MissingDependencyError: parquet and the Hub need packages that may not be installed.
    """
    hub, known = HUB_NAME.fullmatch(str(path)), layout.kind or KINDS.get(_suffix(path))
    if hub and known is None and not Path(path).exists():
        rows = read_hub(hub["name"], columns, config=hub["config"], split=hub["split"] or "train")
        return rows if keep_bad_rows else good_rows(path, rows)
    path = Path(path)
    kind = _check_kind(path, known, layout)
    if kind == "parquet":
        rows = check_rows(path, "row", _read_parquet(path, columns))
    else:
        text = read_text(path, layout.encoding, tolerant=True)
        if kind == "jsonl":
            numbered = _read_json_lines(path, text, columns)
        else:
            numbered = _read_fields(path, text, columns, kind, layout)
        rows = check_rows(path, "line", numbered)
    return rows if keep_bad_rows else good_rows(path, rows)


def read_text(
    path: str | os.PathLike[str], encoding: str = "utf-8", *, tolerant: bool = False
) -> str:
    """Read the text of a file, plain or .gz, with its line ends, without a byte-order mark.

    Args:
        path: of the file.
        encoding: of its text.
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
    path: Path, text: str, columns: Columns, kind: str, layout: TableLayout
) -> Numbered:
    separator = layout.separator or _separator(text, kind)
    names, rows = read_delimited(
        path,
        text,
        separator=separator,
        quoting=kind == "csv" if layout.quoting is None else layout.quoting,
        header=layout.header,
    )
    hint = f"is {separator!r} the separator, is header = {layout.header} right, or "
    present = find_columns(path, columns, names, hint)
    indices = {role: names.index(name) for role, name in present.items()}
    for line, fields in rows:
        if isinstance(fields, RowError):
            yield line, fields
        else:
            yield line, {role: fields[i] for role, i in indices.items()}


def _separator(text: str, kind: str) -> str:
    first = text.partition("\n")[0]
    return "\t" if kind == "tsv" else ";" if ";" in first and "," not in first else ","


def _read_json_lines(path: Path, text: str, columns: Columns) -> Numbered:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, _json_fields(f"{path}, line {line},", content, columns)


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


def _read_parquet(path: Path, columns: Columns) -> Numbered:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            f'{path} is a parquet file, which needs pyarrow: pip install "qkv[train]"'
        ) from error
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(read_content(path)))
        present = find_columns(path, columns, file.schema_arrow.names)
        rows = file.read(columns=list(set(present.values()))).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not a complete parquet file: {error} (is it truncated?)"
        ) from error
    return enumerate(({role: row[name] for role, name in present.items()} for row in rows), start=1)


def _suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of the name in lower case, without .gz."""
    return Path(str(path).lower().removesuffix(".gz")).suffix

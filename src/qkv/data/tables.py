"""Tables of texts from csv, tsv, JSON lines, parquet or the Hub; what is broken is named."""

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
from qkv.data.rows import Columns, Numbered, Row, check_rows, find_columns
from qkv.data.text import decode, read_content
from qkv.errors import ConfigError, DataError, MissingDependencyError

KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
HUB_NAME = re.compile(
    r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(\[(?P<split>[\w.]+)\])?"
)


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """How a file holds a table; what is None follows from the file's name.

    Args:
        kind: jsonl has an object in each line; the other names are the usual ones.
        header: whether the first line of csv or tsv names the columns.
        quoting: whether double quotes hold a field together; by default in csv and not in tsv.
        separator: between the fields of a line; by default a tab in tsv, a comma in csv, or a
            semicolon where the first line has one and no comma, as spreadsheets write it in
            countries with decimal commas.
        encoding: of the text, by Python's name.

    Raises:
        ConfigError: an unknown encoding, or a separator that is no single character.
    """

    kind: Literal["csv", "tsv", "jsonl", "parquet"] | None = None
    header: bool = True
    quoting: bool | None = None
    separator: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check what no file is needed for."""
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
    tolerant: bool = False,
    broken: list[str] | None = None,
) -> list[Row]:
    """Read the columns that are asked for, none of them empty anywhere.

    A name that is no file, such as "owner/name", is looked for on the Hub (see `read_hub`), where
    "owner/name:config[validation]" also says which configuration, and which split if not "train".

    Args:
        path: of a .csv, .tsv, .jsonl, .json (lines) or .parquet file, which may be packed as .gz.
        columns: what to call a column, to its name; or to its number, counted from 0, in a table
            without header.
        layout: what the file's name does not say.
        tolerant: whether a broken row is kept, with its problem, and not raised.
        broken: takes the problems of broken rows, which are left out then, and not raised.

    Raises:
        DataError: the file is missing, empty, broken or in another encoding; a column is missing; a
            row has too few or too many fields, an empty one, or one that is no text.
        ConfigError: the layout asks for what such a file has not.
        MissingDependencyError: parquet and the Hub need packages that may not be installed.
    """
    if broken is not None:
        rows = read_table(path, columns, layout, tolerant=True)
        broken += [row.problem for row in rows if row.problem]
        if len(broken) == len(rows):
            raise DataError(f"{path} has no row that is whole; of the first: {broken[0]}")
        return [row for row in rows if not row.problem]
    hub, known = HUB_NAME.fullmatch(str(path)), layout.kind or KINDS.get(_suffix(path))
    if hub and known is None and not Path(path).exists():
        return read_hub(hub["name"], columns, config=hub["config"], split=hub["split"] or "train")
    path = Path(path)
    kind = _check_kind(path, known, layout)
    if kind == "parquet":
        return check_rows(path, "row", _read_parquet(path, columns), tolerant=tolerant)
    text = read_text(path, layout.encoding, tolerant=tolerant)
    if kind == "jsonl":
        rows = _read_json_lines(path, text, columns)
    else:
        rows = _read_fields(path, text, columns, kind, layout)
    return check_rows(path, "line", rows, tolerant=tolerant)


def read_text(
    path: str | os.PathLike[str], encoding: str = "utf-8", *, tolerant: bool = False
) -> str:
    """The text of a file, plain or .gz, with its line ends and without a byte-order mark.

    Args:
        path: of the file.
        encoding: of its text.
        tolerant: whether bytes that are no text are kept, as `surrogateescape` has them.

    Raises:
        DataError: the file is missing, empty, broken or in another encoding.
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
            f"the name of {path} does not say how it holds a table; expected {', '.join(KINDS)} "
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
    hint = f"is {separator!r} what stands between fields, is header = {layout.header} right, or "
    found = find_columns(path, columns, names, hint)
    places = {role: names.index(name) for role, name in found.items()}
    for line, fields in rows:
        if not isinstance(fields, DataError):
            fields = {role: fields[i] for role, i in places.items()}
        yield line, fields


def _separator(text: str, kind: str) -> str:
    first = text.partition("\n")[0]
    return "\t" if kind == "tsv" else ";" if ";" in first and "," not in first else ","


def _read_json_lines(path: Path, text: str, columns: Columns) -> Numbered:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, _json_fields(f"{path}, line {line},", content, columns)


def _json_fields(where: str, content: str, columns: Columns) -> Mapping[str, Any] | DataError:
    """The fields of a line, or what is wrong with it."""
    try:
        row = json.loads(content)
    except RecursionError:
        return DataError(f"{where} is nested too deeply; expected an object of texts")
    except ValueError as error:
        return DataError(f"{where} is no JSON: {error} (one object over several lines?)")
    if not isinstance(row, dict):
        return DataError(
            f"{where} is a JSON {type(row).__name__}, expected an object in each line, such as "
            '{"text": "...", "label": "..."}'
        )
    try:
        found = find_columns(where, columns, list(row))
    except DataError as error:
        return error
    return {role: row[name] for role, name in found.items()}


def _read_parquet(path: Path, columns: Columns) -> Numbered:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            f'{path} is parquet, which needs pyarrow: pip install "qkv[train]"'
        ) from error
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(read_content(path)))
        found = find_columns(path, columns, file.schema_arrow.names)
        rows = file.read(columns=list(set(found.values()))).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no whole parquet file: {error} (was it cut short?)") from error
    return enumerate(({role: row[name] for role, name in found.items()} for row in rows), start=1)


def _suffix(path: str | os.PathLike[str]) -> str:
    """The end of the name, without .gz, in lower case."""
    return Path(str(path).lower().removesuffix(".gz")).suffix

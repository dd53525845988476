"""What a command is asked about, from arguments, files or standard input, and what it answers.

A broken input stops nothing: the others are answered, it is reported with its place, and the exit
status says so.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qkv.data.rows import NO_TEXT
from qkv.data.tables import read_table
from qkv.data.text import decode, read_content
from qkv.errors import ConfigError, DataError
from qkv.json_fields import quoted
from qkv.tasks.streams import as_text, is_interactive, read_input
from qkv.zoo.catalog import ZOO

# Of files that one may have meant where a text is expected.
SUFFIXES = (
    *(".bin", ".csv", ".gguf", ".gz", ".jpeg", ".jpg", ".json", ".jsonl", ".parquet"),
    *(".pdf", ".png", ".safetensors", ".tsv", ".txt", ".yaml", ".yml"),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input.

    Args:
        where: it stands, such as "mine.csv, line 7".
        fields: by our names, such as "text"; none where there is a problem.
        problem: why it cannot be answered, and where it stands.
        files: that it was read from, which no output may replace.
    """

    where: str
    fields: dict[str, str]
    problem: str = ""
    files: tuple[Path, ...] = ()


def check_texts(texts: Sequence[str]) -> None:
    """Refuse a text of the command line that looks like the name of a model or a file.

    Raises:
        ConfigError: asking what was meant.
    """
    for place, text in enumerate(texts):
        meant = _meant_instead(text)
        if not meant and place == 0 and len(texts) > 1:
            meant = _misspelt(text)
        if meant:
            raise ConfigError(
                f"{text!r} was given as a text, but {meant}? Texts that look like names may come "
                "by --file, or as lines on standard input"
            )


def _meant_instead(text: str) -> str:
    """What a text that looks like a name may have been meant as; "" where it looks like none."""
    if text in ZOO:
        return f"is the name of a model: did you mean --model {text}"
    path = Path(text)
    if text.strip() and exists(path):
        kind, option = ("folder", "--model") if path.is_dir() else ("file", "--file")
        return f"is a {kind}: did you mean {option} {text}"
    if len(text.split()) == 1 and path.suffix.lower() in SUFFIXES:
        return "looks like the name of a file, which is not there: did you mean --file"
    return ""


def _misspelt(text: str) -> str:
    near = difflib.get_close_matches(text, ZOO, n=1, cutoff=0.8)
    return f"looks like the name of a model: did you mean --model {near[0]}" if near else ""


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a text that is too long to name one names none."""
    try:
        return path.exists()
    except OSError:
        return False


def text_items(
    texts: Sequence[str], file: Path | None, columns: Mapping[str, str], *, what: str = "a text"
) -> list[Item]:
    """The inputs: arguments, or a file's rows or lines, or the lines of standard input.

    Args:
        texts: arguments; they are the first of our names.
        file: a .txt of one input a line, else a table.
        columns: our names, and those of the table's columns.
        what: one input is called in errors.

    Raises:
        ConfigError: both arguments and a file, or an argument that looks like a name.
        DataError: there is no input, or the file cannot be read.
    """
    if texts and file is not None:
        raise ConfigError(
            f"{len(texts)} inputs and --file {file} were given; expected one of the two"
        )
    name = next(iter(columns))
    check_texts(texts)
    if texts:
        return [
            _item(name, as_text(text), f"argument {i}") for i, text in enumerate(texts, start=1)
        ]
    if file is not None and file.suffix != ".txt":
        return [
            Item(
                where=f"{file}, line {row.line}",
                fields=row.fields,
                problem=row.problem,
                files=(file,),
            )
            for row in read_table(file, columns, keep_bad_rows=True)
        ]
    if file is not None:
        lines = _lines(name, read_content(file), str(file), what)
        return [replace(item, files=(file,)) for item in lines]
    if is_interactive():
        raise DataError(
            f"no input: expected {what} as an argument, --file FILE, or lines on standard input"
        )
    return _lines(name, read_input(), "standard input", what)


def pair_items(
    texts: Sequence[str],
    file: Path | None,
    columns: Mapping[str, str],
    second: str | None,
    *,
    column: str | None = None,
) -> list[Item]:
    """Return texts with the fields "text" and, if there is any, "second".

    Args:
        texts: arguments.
        file: a .txt file with one text per line, else a table.
        columns: the table's column of both fields, or of "text" alone.
        second: the second text of each; None for single texts, and for pairs from a table.
        column: name of the second column if it was set by an option.

    Raises:
        ConfigError: `column` without a table or beside `second`, or as `text_items`.
        DataError: as `text_items`.
    """
    table = file is not None and file.suffix != ".txt"
    if column is not None and (second is not None or not table):
        raise ConfigError(
            f"columns.second = {column!r} names a column of a table; expected --file TABLE, and "
            "no --second beside it"
        )
    if second is None and table:
        return text_items(texts, file, columns)
    items = text_items(texts, file, {"text": columns["text"]})
    if second is None:
        return items
    if not second.strip():
        raise ConfigError("--second is empty; expected a text")
    check_texts([second])
    both = {"second": second}
    return [item if item.problem else replace(item, fields=item.fields | both) for item in items]


def _lines(name: str, content: bytes, where: str, what: str) -> list[Item]:
    """One input a line; blank lines at the end do not count."""
    lines = decode(content, where, tolerant=True).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{where} is empty: expected {what} in each line")
    return [
        _item(name, line.removesuffix("\r"), f"{where}, line {number}")
        for number, line in enumerate(lines, start=1)
    ]


def _item(name: str, text: str, where: str) -> Item:
    problem = ""
    if not text.strip():
        problem = f"{where}: empty; expected a text"
    elif NO_TEXT.search(text):
        problem = f"{where}: not UTF-8: {quoted(text)} (another encoding, such as Latin-1?)"
    return Item(where=where, fields={} if problem else {name: text}, problem=problem)


def pick_device(name: str) -> torch.device:
    """The device of this name; an accelerator for "auto", if there is one.

    Raises:
        ConfigError: it is not there.
    """
    if name == "auto":
        has_one = torch.accelerator.is_available()
        return (has_one and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device = {name!r} cannot be used: {reason}") from error

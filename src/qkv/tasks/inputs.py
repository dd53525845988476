"""The inputs of a command, from arguments, files or standard input.

A malformed input does not stop the run: the others are processed, the input is reported with its
location, and the exit status is not zero.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from qkv.data.rows import EVERY, NO_TEXT, Span
from qkv.data.tables import count_rows, iterate_table
from qkv.data.text import decode, iterate_lines, read_content
from qkv.errors import ConfigError, DataError
from qkv.json_fields import quoted
from qkv.tasks.streams import as_text, is_interactive, read_input
from qkv.zoo.catalog import ZOO

# Suffixes by which an argument that should be a text is recognized as the name of a file.
SUFFIXES = (
    *(".bin", ".csv", ".gguf", ".gz", ".jpeg", ".jpg", ".json", ".jsonl", ".parquet"),
    *(".pdf", ".png", ".safetensors", ".tsv", ".txt", ".yaml", ".yml"),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input.

    Args:
        where: its location, such as "mine.csv, line 7".
        fields: its values by role, such as "text"; empty if there is a problem.
        problem: why it cannot be processed, with its location; "" if it can be.
        files: files that it was read from, which the output must not replace.
    """

    where: str
    fields: dict[str, str]
    problem: str = ""
    files: tuple[Path, ...] = ()


def check_texts(texts: Sequence[str]) -> None:
    """Reject a text on the command line that looks like the name of a model or a file.

    Raises:
        ConfigError: a text looks like a name; the message proposes the option for it.
    """
    for index, text in enumerate(texts):
        meant = _meant_instead(text)
        if not meant and index == 0 and len(texts) > 1:
            meant = _misspelt(text)
        if meant:
            raise ConfigError(
                f"the text {text!r} {meant}? Texts that look like names can be read with --file or "
                "from standard input"
            )


def _meant_instead(text: str) -> str:
    """Describe a text that looks like a name, with the option for it; "" if it does not."""
    if text in ZOO:
        return f"is the name of a model: did you mean --model {text}"
    path = Path(text)
    if text.strip() and exists(path):
        kind, option = ("folder", "--model") if path.is_dir() else ("file", "--file")
        return f"is a {kind}: did you mean {option} {text}"
    if len(text.split()) == 1 and path.suffix.lower() in SUFFIXES:
        return "looks like the name of a file that does not exist: did you mean --file"
    return ""


def _misspelt(text: str) -> str:
    near = difflib.get_close_matches(text, ZOO, n=1, cutoff=0.8)
    return f"looks like the name of a model: did you mean --model {near[0]}" if near else ""


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; False for a text that is too long for a path."""
    try:
        return path.exists()
    except OSError:
        return False


def text_items(
    texts: Sequence[str],
    file: Path | None,
    columns: Mapping[str, str],
    *,
    span: Span = EVERY,
    what: str = "a text",
    whole: bool = False,
) -> Iterable[Item]:
    """Return the inputs: the arguments, the rows or lines of a file, or lines of standard input.

    Rows and lines are read, and their errors raised, during iteration.

    Args:
        texts: arguments, values of the first role in `columns`.
        file: a .txt file with one input per line, else a table.
        columns: the table's column of each role.
        span: the rows or lines of the file to read.
        what: name of an input in error messages.
        whole: whether a .txt file, or standard input, is a single input.

    Raises:
        ConfigError: there are both arguments and a file, or an argument looks like a name.
        DataError: there is no input, or the file cannot be read.
    """
    if texts and file is not None:
        raise ConfigError(
            f"there are inputs as arguments ({len(texts)}) and --file {file}; expected one of the "
            "two"
        )
    name = next(iter(columns))
    check_texts(texts)
    if texts:
        return [
            text_item(name, as_text(text), f"argument {i}") for i, text in enumerate(texts, start=1)
        ]
    if file is not None and file.suffix != ".txt":
        return (
            Item(
                where=f"{file}, line {row.line}",
                fields=row.fields,
                problem=row.problem,
                files=(file,),
            )
            for row in iterate_table(file, columns, span=span)
        )
    if file is not None and whole:
        return [replace(_whole(name, read_content(file), str(file)), files=(file,))]
    if file is not None:
        return line_items(name, file, span)
    if is_interactive():
        on = f"{what if whole else 'lines'} on standard input"
        raise DataError(f"no input: expected {what} as an argument, --file FILE, or {on}")
    if whole:
        return [_whole(name, read_input(), "standard input")]
    content = decode(read_input(), "standard input", tolerant=True)
    if not content.strip():
        raise DataError(f"standard input is empty: expected {what} in each line")
    return [
        text_item(name, line, f"standard input, line {number}")
        for number, line in _numbered(content.split("\n"))
    ]


def line_items(
    name: str, file: Path, span: Span = EVERY, *, skip_blank: bool = False
) -> Iterator[Item]:
    """Yield one input per line of a file; blank lines at the end are ignored.

    Args:
        name: role of the lines.
        file: a text file.
        span: the lines to read.
        skip_blank: whether to leave out blank lines, which otherwise are problems.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    for number, line in islice(_numbered(iterate_lines(file)), *span):
        if line.strip() or not skip_blank:
            yield replace(text_item(name, line, f"{file}, line {number}"), files=(file,))


def count_inputs(file: Path, *, whole: bool = False) -> int:
    """Return the number of inputs that `text_items` reads from a file.

    Raises:
        DataError: the file cannot be read.
    """
    if file.suffix != ".txt":
        return count_rows(file)
    return 1 if whole else sum(1 for _ in _numbered(iterate_lines(file)))


def pair_items(
    texts: Sequence[str],
    file: Path | None,
    columns: Mapping[str, str],
    second: str | None,
    *,
    span: Span = EVERY,
    column: str | None = None,
) -> Iterable[Item]:
    """Return texts with the fields "text" and, if there is any, "second".

    Args:
        texts: arguments.
        file: a .txt file with one text per line, else a table.
        columns: the table's column of both fields, or of "text" alone.
        second: the second text of each; None for single texts, and for pairs from a table.
        span: the rows or lines of the file to read.
        column: name of the second column if it was set by an option.

    Raises:
        ConfigError: `column` without a table or with `second`; see also `text_items`.
        DataError: see `text_items`.
    """
    table = file is not None and file.suffix != ".txt"
    if column is not None and (second is not None or not table):
        raise ConfigError(
            f"columns.second = {column!r} names a column of a table; expected --file TABLE, and "
            "no --second beside it"
        )
    if second is None and table:
        return text_items(texts, file, columns, span=span)
    items = text_items(texts, file, {"text": columns["text"]}, span=span)
    if second is None:
        return items
    if not second.strip():
        raise ConfigError("--second is empty; expected a text")
    check_texts([second])
    both = {"second": second}
    return (item if item.problem else replace(item, fields=item.fields | both) for item in items)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines without their ends, and their numbers; blank lines at the end are ignored."""
    blank = list[tuple[int, str]]()
    for number, line in enumerate(lines, start=1):
        blank.append((number, line.removesuffix("\n").removesuffix("\r")))
        if line.strip():
            yield from blank
            blank.clear()


def _whole(name: str, content: bytes, where: str) -> Item:
    """Return a file as one input, without white space around it."""
    text = decode(content, where, tolerant=True)
    return text_item(name, text.replace("\r\n", "\n").strip(), where)


def text_item(name: str, text: str, where: str) -> Item:
    """Return a text as an input; a text that is empty or not UTF-8 is a problem.

    Args:
        name: role of the text.
        text: the text.
        where: its location.
    """
    problem = ""
    if not text.strip():
        problem = f"{where}: empty; expected a text"
    elif NO_TEXT.search(text):
        problem = f"{where}: not UTF-8: {quoted(text)} (another encoding, such as Latin-1?)"
    return Item(where=where, fields={} if problem else {name: text}, problem=problem)


def pick_device(name: str) -> torch.device:
    """Return a device by its name; "auto" is an accelerator if there is one, else the CPU.

    With several accelerators, each torchrun process on a machine gets its own.

    Raises:
        ConfigError: the device cannot be used.
    """
    if name == "auto":
        kind = torch.accelerator.current_accelerator(check_available=True)
        local = os.environ.get("LOCAL_RANK", "")
        if kind is not None and local.isdecimal():
            return torch.device(kind.type, int(local) % torch.accelerator.device_count())
        return kind or torch.device("cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device = {name!r} cannot be used: {reason}") from error

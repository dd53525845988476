"""Texts with summaries that people wrote, and named sets of them."""

import functools
import json
import os
import re
from typing import NamedTuple

from qkv.data.archives import read_members
from qkv.data.docstrings import DocstringCorpus, docstring_corpus
from qkv.data.parts import USUAL_SHARES, check_part, split_by_hash
from qkv.data.tables import TableLayout, read_table
from qkv.data.text import decode, find_data, read_lines
from qkv.errors import DataError
from qkv.json_fields import shown

SETS = {
    "aeslc": ("train", "validation", "test"),
    "dialogsum": ("validation", "test"),
    "ag_news": ("train", "validation", "test"),
    "docstrings": ("train", "validation", "test"),
}
MARK = re.compile(r"^@(subject|ann\d+)[ \t\r]*$", re.MULTILINE)


class Summarized(NamedTuple):
    """A text, and its summaries: the first to learn, all of them right."""

    text: str
    summaries: tuple[str, ...]


def summary_set(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> list[Summarized]:
    """One part of a named set; see `find_data`.

    "aeslc" e-mails and their subjects (Zhang and Tetreault 2019, CC BY-NC-SA 4.0): real mail of
    real people, not to be quoted; "validation" and "test" have three more subjects that readers
    wrote. "dialogsum" dialogues (Chen et al. 2021, CC BY-NC-SA 4.0), "test" with three summaries.
    "ag_news" news and their titles (Zhang et al. 2015, not for trade): its training file is not in
    the data folder, so the parts are 80 %, 10 % and 10 % of its test file. "docstrings" Python
    functions and the first lines of their docstrings, from what is installed; see
    `docstring_corpus`, which is read once, in about a minute.

    Raises:
        DataError: an unknown name or part, or files that are not found or broken.
    """
    check_part(name, split, SETS)
    if name == "docstrings":
        return [Summarized(one.code, (one.summary,)) for one in _docstrings().parts[split]]
    folder, file = find_data(name, data_dir), "dev" if split == "validation" else split
    if name == "aeslc":
        return read_aeslc(folder / f"{file}.tar.gz")
    if name == "dialogsum":
        return read_dialogsum(folder / f"dialogsum.{file}.jsonl.gz")
    columns, layout = {"title": 1, "text": 2}, TableLayout(header=False)
    rows = [row.fields for row in read_table(folder / "test.csv.gz", columns, layout)]
    parts = split_by_hash([row["text"] for row in rows], USUAL_SHARES)
    return [
        Summarized(row["text"], (row["title"],))
        for row, part in zip(rows, parts, strict=True)
        if part == split
    ]


@functools.cache
def _docstrings() -> DocstringCorpus:
    return docstring_corpus()


def read_aeslc(path: str | os.PathLike[str]) -> list[Summarized]:
    """Read a tar of e-mails: the body, a line "@subject", the subject, "@ann0", another, and so on.

    The errors name the file in the tar and nothing of what it holds.

    Raises:
        DataError: the tar is broken, or a file has another form.
    """
    examples = []
    for member, content in read_members(path):
        where = f"{member} in {path}"
        text, *marked = MARK.split(decode(content, where))
        names, summaries = marked[::2], tuple(part.strip() for part in marked[1::2])
        if names[:1] != ["subject"] or not text.strip() or not all(summaries):
            raise DataError(
                f"{where} has the marks {names} and an empty part among {1 + len(summaries)}, or "
                "no subject; expected a body, a line '@subject', a subject, and more after '@ann0' "
                "and so on"
            )
        examples.append(Summarized(text.strip(), summaries))
    return examples


def read_dialogsum(path: str | os.PathLike[str]) -> list[Summarized]:
    """Read JSON lines with a "dialogue" and a "summary", or "summary1", "summary2" and so on.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    examples = []
    for line, content in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}, is no JSON: {error}") from error
        fields = row if isinstance(row, dict) else {}
        summaries = [fields[key] for key in sorted(fields) if re.fullmatch(r"summary\d*", key)]
        texts = [fields.get("dialogue"), *summaries]
        if not summaries or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                f"{path}, line {line}, has the fields {shown(sorted(fields))}; expected a "
                "dialogue, and a summary or several (summary1, summary2), none of them empty"
            )
        examples.append(Summarized(texts[0].strip(), tuple(text.strip() for text in summaries)))
    return examples

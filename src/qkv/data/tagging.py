"""Sentences with a tag for each token, such as named entities, from CoNLL files and JSON lines."""

import json
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from qkv.data.rows import Row, RowError, good_rows
from qkv.data.tables import read_text
from qkv.errors import DataError
from qkv.json_fields import quoted, shown

ENTITY = re.compile(r"[BI]-\S+|O")
START = "-DOCSTART-"  # begins a document in CoNLL-2003

# The line where a sentence begins, and the sentence or its problem.
Located = Iterator[tuple[int, "TaggedSentence | RowError"]]


class TaggedSentence(NamedTuple):
    """Tokens and their tags, equally many."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


def read_tagged(
    path: str | os.PathLike[str],
    *,
    columns: tuple[int, int] | tuple[str, str] | None = None,
    encoding: str = "utf-8",
    problems: list[str] | None = None,
) -> list[TaggedSentence]:
    """Read a CoNLL file, or JSON lines such as {"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}.

    A CoNLL file has one token per line, in columns separated by tabs or spaces, and a blank line
    between sentences; -DOCSTART- lines are skipped. If a tag begins with B- or I-, all tags must be
    BIO tags: "O", "B-PER" for the first token of an entity, "I-PER" for the others.

    Args:
        path: path of the file, plain or .gz; .jsonl and .json are JSON lines, all others CoNLL.
        columns: columns of the tokens and of the tags: for CoNLL numbers from 0, or negative from
            the end; for JSON lines names; by default the first and the last, or "tokens" and
            "tags".
        encoding: encoding of the file.
        problems: receives the problems of bad sentences, which are left out; if None, they are an
            error.

    Raises:
        DataError: the file cannot be read or has no sentences, or sentences are bad: the message
            reports all of them (see `report_problems`).
    """
    text = read_text(path, encoding)
    is_json = str(path).lower().removesuffix(".gz").endswith((".jsonl", ".json"))
    if is_json:
        located = _read_json_lines(path, text, columns or ("tokens", "tags"))
    else:
        located = _read_conll(path, text, columns or (0, -1))
    checked = [(line, _checked(path, line, sentence)) for line, sentence in located]
    if _has_entities(sentence for _, sentence in checked):
        checked = [(line, _with_bio(path, line, sentence)) for line, sentence in checked]
    if not checked:
        raise DataError(f"{path} has no sentences; expected at least one")
    rows = [
        Row(line, {}, str(one), one.kind) if isinstance(one, RowError) else Row(line, {})
        for line, one in checked
    ]
    good_rows(path, rows, problems)
    return [one for _, one in checked if isinstance(one, TaggedSentence)]


def _read_conll(
    path: str | os.PathLike[str], text: str, columns: tuple[int, int] | tuple[str, str]
) -> Located:
    first, tokens, tags = 0, list[str](), list[str]()
    problem: RowError | None = None
    width = 0
    for line, content in enumerate([*text.split("\n"), ""], start=1):
        fields = content.split()
        if fields and fields[0] != START:
            first, width = first or line, width or len(fields)
            try:
                token, tag = (fields[int(column)] for column in columns)
            except IndexError:
                token = tag = ""
            if len(fields) != width or not tag:
                problem = problem or RowError(
                    "wrong number of columns",
                    f"{path}, line {line}, has {len(fields)} columns, expected {width} as in the "
                    "first line (a token with a space in it, or another separator?)",
                )
            tokens.append(token)
            tags.append(tag)
        elif tokens:
            yield first, problem or TaggedSentence(tuple(tokens), tuple(tags))
            first, tokens, tags, problem = 0, [], [], None


def _read_json_lines(
    path: str | os.PathLike[str], text: str, columns: tuple[int, int] | tuple[str, str]
) -> Located:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, _read_object(f"{path}, line {line},", content, columns)


def _read_object(
    where: str, content: str, columns: tuple[int, int] | tuple[str, str]
) -> TaggedSentence | RowError:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        return RowError(
            "not JSON", f"{where} is not JSON: {error} (one object over several lines?)"
        )
    lists = [row.get(str(column)) if isinstance(row, dict) else None for column in columns]
    if not all(
        isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists
    ):
        return RowError(
            "no lists of texts",
            f"{where} has {columns[0]} = {shown(lists[0])} and {columns[1]} = {shown(lists[1])}; "
            'expected two lists of texts, such as {"tokens": ["Ann"], "tags": ["B-PER"]}',
        )
    return TaggedSentence(tuple(lists[0] or ()), tuple(lists[1] or ()))


def _checked(
    path: str | os.PathLike[str], line: int, sentence: TaggedSentence | RowError
) -> TaggedSentence | RowError:
    """Check that there are tokens, equally many tags, and that none is empty."""
    if isinstance(sentence, RowError):
        return sentence
    tokens, tags = sentence
    if len(tokens) != len(tags) or not tokens:
        return RowError(
            "tokens and tags differ in number",
            f"{path}, line {line}: {len(tokens)} tokens and {len(tags)} tags; expected one tag per "
            "token, and at least one token",
        )
    if not all(text.strip() for text in (*tokens, *tags)):
        return RowError("empty token or tag", f"{path}, line {line}: a token or a tag is empty")
    return sentence


def _has_entities(sentences: Iterator[TaggedSentence | RowError]) -> bool:
    return any(
        tag.startswith(("B-", "I-"))
        for sentence in sentences
        if isinstance(sentence, TaggedSentence)
        for tag in sentence.tags
    )


def _with_bio(
    path: str | os.PathLike[str], line: int, sentence: TaggedSentence | RowError
) -> TaggedSentence | RowError:
    """Check the BIO tags of a sentence; the problem names the first bad token."""
    if isinstance(sentence, RowError):
        return sentence
    before = "O"
    for i, (token, tag) in enumerate(zip(*sentence, strict=True)):
        where = f"{path}, sentence at line {line}, token {i + 1} ({quoted(token, 40)}): "
        if not ENTITY.fullmatch(tag):
            return RowError(
                "not a BIO tag",
                f"{where}the tag {quoted(tag, 40)} is not a BIO tag; expected O, B-TYPE or I-TYPE",
            )
        if tag.startswith("I-") and before[2:] != tag[2:]:
            return RowError(
                "I- without B-",
                f"{where}{tag} follows {before}; expected B-{tag[2:]} at the beginning of an "
                "entity (is the file in the IOB1 scheme?)",
            )
        before = tag
    return sentence

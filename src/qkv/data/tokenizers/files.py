"""The files of published vocabularies; what is wrong in one is said with its name and line."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.errors import DataError


def read_text(path: Path) -> str:
    r"""Read UTF-8 whose lines end in "\n" or "\r\n", and nowhere else: "\u2028" is a piece.

    Raises:
        DataError: the file is missing, or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; one that is not there is empty.

    Raises:
        DataError: the file holds something else, or one name twice.
    """

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(items)
        if len(names) < len(items):
            twice = Counter(name for name, _ in items).most_common(1)[0][0]
            raise DataError(f"{path} has {twice!r} twice")
        return names

    if not path.exists():
        return {}
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: not JSON, is it cut short? ({error.msg})"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def read_lines(path: Path) -> dict[str, int]:
    """Read a vocabulary of one token a line, as BERT's vocab.txt; the first has id 0.

    Raises:
        DataError: a line is empty, or says what an earlier one says.
    """
    ids: dict[str, int] = {}
    for i, token in enumerate(read_text(path).removesuffix("\n").split("\n")):
        if not token:
            raise DataError(f"{path}, line {i + 1}: empty; expected a token")
        if token in ids:
            raise DataError(
                f"{path}, line {i + 1}: {token!r} is on line {ids[token] + 1} too; one token "
                "cannot have two ids"
            )
        ids[token] = i
    return ids


def read_ids(path: Path) -> dict[str, int]:
    """Read a vocabulary that gives each token its id, as vocab.json.

    Raises:
        DataError: the ids are not 0, 1, 2, ... with each one once.
    """
    ids = read_object(path)
    tokens: dict[int, str] = {}
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(ids):
            raise DataError(
                f"{path}: {token!r} has id {i!r}; expected 0 to {len(ids) - 1} for {len(ids)} "
                "tokens: is an id missing, or the file cut short?"
            )
        if i in tokens:
            raise DataError(f"{path}: {tokens[i]!r} and {token!r} both have id {i}")
        tokens[i] = token
    return ids


def read_merges(path: Path, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Read the merges of byte-pair encoding, one a line, the first the most frequent.

    Raises:
        DataError: a line is no pair, or a part of it or its result is not in the vocabulary.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"{path}, line {number}: {line!r} is no merge; expected two pieces and a space "
                "between them: is the file cut short?"
            )
        for token in (*parts, "".join(parts)):
            if token not in ids:
                raise DataError(
                    f"{path}, line {number}: {token!r} is not in the vocabulary; are the two files "
                    "of one tokenizer?"
                )
        merges.append((parts[0], parts[1]))
    return merges

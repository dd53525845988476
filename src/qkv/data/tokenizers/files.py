"""Read the files of published vocabularies; errors state the file and the line."""

from collections.abc import Mapping
from pathlib import Path

from qkv.errors import DataError
from qkv.json_fields import quoted, read_json, read_utf8, shown


def read_text(path: Path) -> str:
    r"""Read UTF-8 text whose lines end only with "\n" or "\r\n": "\u2028" is a piece.

    Raises:
        DataError: the file is missing, or not UTF-8.
    """
    return read_utf8(path).replace("\r\n", "\n")


def read_lines(path: Path) -> dict[str, int]:
    """Read a vocabulary with one token per line, such as BERT's vocab.txt; the first has id 0.

    Raises:
        DataError: a line is empty, or repeats an earlier line.
    """
    ids: dict[str, int] = {}
    for i, token in enumerate(read_text(path).removesuffix("\n").split("\n")):
        if not token:
            raise DataError(f"{path}, line {i + 1}: empty; expected a token")
        if token in ids:
            raise DataError(
                f"{path}, line {i + 1}: {quoted(token)} is also on line {ids[token] + 1}; a token "
                "cannot have two ids"
            )
        ids[token] = i
    return ids


def read_ids(path: Path) -> dict[str, int]:
    """Read a vocabulary that maps tokens to ids, such as vocab.json.

    Raises:
        DataError: the ids are not 0, 1, 2, ..., each exactly once.
    """
    ids = read_json(path, missing_ok=True, unique=True)
    tokens: dict[int, str] = {}
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(ids):
            raise DataError(
                f"{path}: {quoted(token)} has id {shown(i)}; expected 0 to {len(ids) - 1} for "
                f"{len(ids)} tokens: is an id missing, or the file truncated?"
            )
        if i in tokens:
            raise DataError(f"{path}: {quoted(tokens[i])} and {quoted(token)} both have id {i}")
        tokens[i] = token
    return ids


def read_merges(path: Path, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Read the merges of byte-pair encoding, one per line, the most frequent first.

    Raises:
        DataError: a line is not a pair, or a part or the result is not in the vocabulary.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise DataError(
                f"{path}, line {number}: {quoted(line)} is not a merge; expected two pieces with a "
                "space between them: is the file truncated?"
            )
        for token in (*parts, "".join(parts)):
            if token not in ids:
                raise DataError(
                    f"{path}, line {number}: {quoted(token)} is not in the vocabulary; do both "
                    "files belong to the same tokenizer?"
                )
        merges.append((parts[0], parts[1]))
    return merges

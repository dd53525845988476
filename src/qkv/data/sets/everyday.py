"""Everyday sentences with two references each, German and English, written for this project.

120 in each direction, written by hand before any translator tested on them was trained. About half
contain names, numbers or addresses that a translation must keep.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qkv.data.sets import Folder, NamedSet
from qkv.data.text import choose_languages

PATH = Path(__file__).parent / "everyday" / "test.jsonl"


class Sentence(NamedTuple):
    """A sentence to translate.

    Args:
        source: the sentence.
        references: two translations.
        keep: names, numbers and addresses that its translation must contain unchanged.
    """

    source: str
    references: list[str]
    keep: list[str]


def everyday(source: str) -> list[Sentence]:
    """Read the sentences in the language `source`, "en" or "de"."""
    rows = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    return [
        Sentence(row["source"], row["references"], row["keep"])
        for row in rows
        if row["direction"].startswith(source)
    ]


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[tuple[str, str]]:
    source, _ = choose_languages("everyday", columns, ("en", "de"))
    return [(one.source, one.references[0]) for one in everyday(source)]


SETS = (
    NamedSet(
        name="everyday",
        task="translate",
        splits=("test",),
        read=_read,
        summary="240 everyday sentences, 120 in en and 120 in de; ships with qkv, Apache-2.0",
    ),
)

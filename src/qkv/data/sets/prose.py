"""Texts of six kinds with two reference summaries each, written for this project.

There is only a test split: settings are chosen on other data.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qkv.data.sets import Folder, NamedSet
from qkv.data.summaries import Summarized
from qkv.data.text import read_lines

PATH = Path(__file__).with_name("prose.jsonl")


class Prose(NamedTuple):
    """A text with two summaries.

    Args:
        id: such as "email-01".
        kind: "email", "news", "minutes", "review", "article" or "dialogue".
        text: the text.
        summary: a summary.
        summary_2: another one.
    """

    id: str
    kind: str
    text: str
    summary: str
    summary_2: str


def prose() -> list[Prose]:
    """Read the texts with their kinds."""
    return [Prose(**json.loads(line)) for line in read_lines(PATH)]


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Summarized]:
    return [Summarized(one.text, (one.summary, one.summary_2)) for one in prose()]


SETS = (
    NamedSet(
        name="prose",
        task="summarize",
        splits=("test",),
        read=_read,
        summary="60 e-mails, news, reviews and other texts, two summaries each; ships, Apache-2.0",
    ),
)

"""Short sentences of invented local news with named entities, written for this project.

Tags are BIO tags of PER, LOC, ORG and DATE. Splits share no sentence pattern, and no person, place
or organization.
"""

from collections.abc import Mapping
from pathlib import Path

from qkv.data.sets import Folder, NamedSet
from qkv.data.tagging import TaggedSentence, read_tagged

FOLDER = Path(__file__).with_name("town_news")


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TaggedSentence]:
    return read_tagged(FOLDER / f"{split}.conll")


SETS = (
    NamedSet(
        name="town_news",
        task="tag",
        splits=("train", "validation", "test"),
        read=_read,
        summary="774 English sentences with PER, LOC, ORG, DATE; ships with qkv, Apache-2.0",
    ),
)

"""Opinions on everything, written for this project, under its license.

`opinions` has what a classifier of sentiment learns from: films, products, places, everyday life;
plain, implied, negated, mixed, ironic and idiomatic. `clear_opinions` are 100 texts on which every
reader agrees; they were written before any model was trained on `opinions`, and are only for
testing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qkv.data.labels import TextExample
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import read_table

HERE = Path(__file__).parent


class Opinion(NamedTuple):
    """An opinion.

    Args:
        text: the text.
        label: "positive" or "negative".
        topic: what it is about, such as films or weather.
        trait: "plain", "implied" (the events imply the sentiment), "negation", "mixed", "irony",
            "comparison" or "idiom".
    """

    text: str
    label: str
    topic: str
    trait: str


def opinions(split: str) -> list[Opinion]:
    """Read the opinions of "train" or "validation" with their topics and traits."""
    columns = {name: name for name in Opinion._fields}
    rows = read_table(HERE / "opinions" / f"{split}.tsv", columns)
    return [Opinion(**row.fields) for row in rows]


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    return [TextExample(one.text, one.label) for one in opinions(split)]


def _read_clear(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    rows = read_table(HERE / "clear_opinions" / f"{split}.tsv", {"text": "text", "label": "label"})
    return [TextExample(**row.fields) for row in rows]


SETS = (
    NamedSet(
        name="opinions",
        task="classify",
        splits=("train", "validation"),
        read=_read,
        summary="10,012 English opinions, positive or negative; ships with qkv, Apache-2.0",
    ),
    NamedSet(
        name="clear_opinions",
        task="classify",
        splits=("test",),
        read=_read_clear,
        summary="100 clear opinions, 50 of each kind, for tests; ships with qkv, Apache-2.0",
    ),
)

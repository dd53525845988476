"""Short reviews written for this project, under its license."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qkv.data.labels import TextExample
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import read_table

PATH = Path(__file__).with_name("reviews.csv")


class Review(NamedTuple):
    """A short review.

    Args:
        text: of the review.
        label: "positive" or "negative".
        topic: what was reviewed, such as a film or a tool.
        trait: what makes it easy or hard: "plain", "implied" (the events imply the sentiment),
            "negation", "mixed" or "irony".
    """

    text: str
    label: str
    topic: str
    trait: str


def reviews(split: str) -> list[Review]:
    """Read the reviews of "train", "validation" or "test" with their topics and traits."""
    columns = [*Review._fields, "split"]
    rows = [row.fields for row in read_table(PATH, dict(zip(columns, columns, strict=True)))]
    return [
        Review(**{name: row[name] for name in Review._fields})
        for row in rows
        if row["split"] == split
    ]


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    return [TextExample(review.text, review.label) for review in reviews(split)]


SETS = (
    NamedSet(
        name="reviews",
        task="classify",
        splits=("train", "validation", "test"),
        read=_read,
        summary="1,476 short English reviews, positive or negative; ships with qkv, Apache-2.0",
    ),
)

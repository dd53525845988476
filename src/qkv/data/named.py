"""Named sets of texts with classes: some of a data folder, and the reviews of this package."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.labels import PairExample, TextExample, read_examples
from qkv.data.question_pairs import answerable_pairs
from qkv.data.question_sets import question_set
from qkv.data.tables import TableLayout, read_table, read_text
from qkv.data.text import find_data
from qkv.errors import DataError

REVIEWS = Path(__file__).with_name("reviews.csv")
REVIEW_PARTS = ("train", "validation", "test")


class Review(NamedTuple):
    """A short review, written for this project.

    Args:
        text: of the review.
        label: "positive" or "negative".
        topic: what was reviewed, such as a film or a tool.
        trait: what makes it easy or hard: "plain", "implied" (what happened tells the feeling),
            "negation", "mixed" or "irony".
    """

    text: str
    label: str
    topic: str
    trait: str


def reviews(split: str) -> list[Review]:
    """The reviews of one part, "train", "validation" or "test"; they are under our licence.

    Raises:
        DataError: an unknown part.
    """
    if split not in REVIEW_PARTS:
        raise DataError(f"no part {split!r} of reviews: expected {', '.join(REVIEW_PARTS)}")
    columns = [*Review._fields, "split"]
    rows = [row.fields for row in read_table(REVIEWS, dict(zip(columns, columns, strict=True)))]
    return [
        Review(**{name: row[name] for name in Review._fields})
        for row in rows
        if row["split"] == split
    ]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """A set that is tables of one layout, and what its labels mean where they are numbers."""

    files: Mapping[str, str]
    layout: TableLayout
    text: str | int
    label: str | int
    names: tuple[str, ...] = ()


_TABLES = {
    "sst2": _Tables(
        files={"train": "train.tsv.gz", "validation": "dev.tsv.gz"},
        layout=TableLayout(header=False),
        text=0,
        label=1,
        names=("negative", "positive"),
    ),
    "emotion": _Tables(
        files={"train": "train.txt.gz", "validation": "val.txt.gz", "test": "test.txt.gz"},
        layout=TableLayout(kind="csv", separator=";", quoting=False),
        text="text",
        label="label_name",
    ),
}
_TREC = {"train": "TREC.train.gz", "test": "TREC.test.gz"}
_QUESTIONS = ("train", "validation", "test")
SETS = ("reviews", *_TABLES, "trec", "qamr_sentences")


def parts_of(name: str) -> tuple[str, ...]:
    """The parts that a named set has, of "train", "validation", "test" and others.

    Raises:
        DataError: an unknown name.
    """
    parts = {"reviews": REVIEW_PARTS, "trec": tuple(_TREC), "qamr_sentences": _QUESTIONS}
    parts |= {table: tuple(_TABLES[table].files) for table in _TABLES}
    if name not in parts:
        raise DataError(f"no data set {name!r}: expected {', '.join(SETS)}")
    return parts[name]


def classification_set(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> list[TextExample] | list[PairExample]:
    """One part of a named set; its texts are as they were published.

    "reviews" comes with the package. The others are looked for in the data folder; see `find_data`:
    "sst2", whole sentences of films' reviews (Socher et al. 2013), without a test part; "trec",
    questions by the six kinds of their answers (Li and Roth 2002), without a validation part;
    "emotion", of messages (Saravia et al. 2018);
    "qamr_sentences", whether a sentence answers a question, see `answerable_pairs`.

    Raises:
        DataError: an unknown name or part, or files that are not found.
    """
    if split not in parts_of(name):
        raise DataError(f"no part {split!r} of {name}: expected {', '.join(parts_of(name))}")
    if name == "reviews":
        return [TextExample(review.text, review.label) for review in reviews(split)]
    if name == "qamr_sentences":
        return answerable_pairs(question_set("qamr", split, data_dir))
    if name == "trec":
        return _read_trec(find_data(name, data_dir) / _TREC[split])
    table = _TABLES[name]
    path = find_data(name, data_dir) / table.files[split]
    examples = read_examples(path, text=table.text, label=table.label, layout=table.layout)
    if not table.names:
        return examples
    return [TextExample(one.text, table.names[int(one.label)]) for one in examples]


def _read_trec(path: Path) -> list[TextExample]:
    r"""Lines such as "NUM:dist How far is it?", in Latin-1; of "NUM:dist" the first part counts."""
    lines = read_text(path, "latin-1").removesuffix("\n").split("\n")
    split = [line.split(" ", 1) for line in lines]
    return [TextExample(text, label.split(":")[0]) for label, text in split]

"""Compare outputs with the answers that a person would accept."""

import re
from collections.abc import Iterable, Mapping, Sequence

from qkv.tutorial.tables import show_table

RIGHT = "right?"


def plain(text: str) -> str:
    """Return a text without capitals, punctuation and extra spaces."""
    return re.sub(r"\W+", " ", text).casefold().strip()


def judge(output: str, accepted: Iterable[str]) -> str:
    """Return "yes" if an output equals an accepted one up to case and punctuation, else "no"."""
    return "yes" if plain(output) in {plain(answer) for answer in accepted} else "no"


def names(output: str, words: Iterable[str]) -> str:
    """Return "yes" if an output has one of the words, or a longer one that contains it."""
    return "yes" if any(plain(word) in plain(output) for word in words) else "no"


def show_judged(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Show a table with the column "right?", and below it how many rows are right."""
    show_table(title, rows)
    print(f"right: {sum(row[RIGHT] == 'yes' for row in rows)} of {len(rows)}")

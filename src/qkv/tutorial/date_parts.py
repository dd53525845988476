"""Find the characters of a written date that stand for its year, month and day."""

import itertools
from collections.abc import Iterable
from datetime import date

from qkv.data.dates import DatePair, write_date

# Position of each part in the ISO form, and other values to try.
WRITTEN = {"year": slice(0, 4), "month": slice(5, 7), "day": slice(8, 10)}
_VARIED = {"year": (1999, 2000), "month": range(1, 13), "day": (1, 22)}


def date_spans(pair: DatePair) -> dict[str, slice]:
    """Return for each part the characters that differ when only that part of the date differs."""
    day = date.fromisoformat(pair.iso)
    spans = {}
    for part, values in _VARIED.items():
        others = [day.replace(**{part: value}) for value in values]
        texts = [pair.text, *(write_date(other, pair.locale, pair.form) for other in others)]
        end = len(pair.text) - _n_shared(text[::-1] for text in texts)
        spans[part] = slice(_n_shared(texts), end)
    return spans


def _n_shared(texts: Iterable[str]) -> int:
    """Return how many characters all texts begin with."""
    same = (len(set(column)) == 1 for column in zip(*texts, strict=False))
    return sum(itertools.takewhile(bool, same))

"""Detection of near-duplicate texts by the words that they share."""

import heapq
import re
import zlib
from collections import Counter, defaultdict

N_WORDS = 5  # words of an n-gram; one changed word changes five n-grams
N_HASHES = 32  # hashes in the sketch of a text


class NearCopies:
    """An index of texts that detects near copies by their estimated Jaccard similarity.

    A text is the set of its 5-grams of words, numbers and signs. The 32 smallest hashes are its
    sketch (Broder 1997, "On the resemblance and containment of documents"). For texts with fewer
    n-grams the similarity is exact.

    Args:
        least: minimum Jaccard similarity of near copies.
    """

    def __init__(self, least: float = 0.5):
        self._least = least
        self._sketches: list[frozenset[int]] = []
        self._holders = defaultdict[int, list[int]](list)

    def add(self, text: str) -> None:
        """Add a text to the index."""
        sketch = _sketch(text)
        for number in sketch:
            self._holders[number].append(len(self._sketches))
        self._sketches.append(sketch)

    def has(self, text: str) -> bool:
        """Return whether the index has a near copy of a text."""
        sketch = _sketch(text)
        shared = Counter(row for number in sketch for row in self._holders.get(number, ()))
        return any(
            similarity(sketch, self._sketches[row]) >= self._least
            for row, count in shared.most_common()
            if count >= self._least * min(len(sketch), len(self._sketches[row]))
        )


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """Return the Jaccard similarity estimated from two sketches."""
    together = heapq.nsmallest(N_HASHES, one | other)
    return sum(number in one and number in other for number in together) / len(together)


def _sketch(text: str) -> frozenset[int]:
    words = [zlib.crc32(word.encode()) for word in re.findall(r"[^\W\d]\w*|\d+|[^\w\s]", text)]
    rows = (words[i : i + N_WORDS] for i in range(max(1, len(words) - N_WORDS + 1)))
    return frozenset(heapq.nsmallest(N_HASHES, {hash_row(row) for row in rows}))


def hash_row(row: list[int]) -> int:
    """Hash an n-gram to a number that is the same on every machine."""
    mixed = 0
    for number in row:
        mixed = (mixed * 0x9E3779B97F4A7C15 + number) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return mixed

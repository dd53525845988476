"""Texts that are nearly the same, found by the words that they have in common."""

import heapq
import re
import zlib
from collections import Counter, defaultdict

N_WORDS = 5  # in a row: one changed word changes five of these
N_HASHES = 32  # that stand for a text


class NearCopies:
    """Which texts were seen, by what they share: their Jaccard similarity, estimated.

    A text is the set of all its words, five in a row, signs counting as words and numbers as one;
    the 32 with the smallest checksums stand for it (Broder 1997, "On the resemblance and
    containment of documents"). Of texts with fewer the similarity is exact.

    Args:
        least: how much of what two texts have together both must have, for near copies.
    """

    def __init__(self, least: float = 0.5):
        self._least = least
        self._sketches: list[frozenset[int]] = []
        self._holders = defaultdict[int, list[int]](list)

    def add(self, text: str) -> None:
        """From now on this text was seen."""
        sketch = _sketch(text)
        for number in sketch:
            self._holders[number].append(len(self._sketches))
        self._sketches.append(sketch)

    def has(self, text: str) -> bool:
        """Whether a text was seen that is nearly this one."""
        sketch = _sketch(text)
        shared = Counter(row for number in sketch for row in self._holders.get(number, ()))
        return any(
            similarity(sketch, self._sketches[row]) >= self._least
            for row, count in shared.most_common()
            if count >= self._least * min(len(sketch), len(self._sketches[row]))
        )


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """The estimate of Jaccard similarity from two sketches."""
    together = heapq.nsmallest(N_HASHES, one | other)
    return sum(number in one and number in other for number in together) / len(together)


def _sketch(text: str) -> frozenset[int]:
    words = [zlib.crc32(word.encode()) for word in re.findall(r"[^\W\d]\w*|\d+|[^\w\s]", text)]
    rows = (words[i : i + N_WORDS] for i in range(max(1, len(words) - N_WORDS + 1)))
    return frozenset(heapq.nsmallest(N_HASHES, {hash_row(row) for row in rows}))


def hash_row(row: list[int]) -> int:
    """One number of several, the same on every machine."""
    mixed = 0
    for number in row:
        mixed = (mixed * 0x9E3779B97F4A7C15 + number) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return mixed

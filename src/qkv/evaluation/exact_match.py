"""Exact match: the fraction of outputs that equal their reference."""

from collections.abc import Sequence
from itertools import pairwise

from qkv.errors import DataError


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the fraction of predictions, 0 to 1, that equal their reference exactly.

    Raises:
        DataError: there are no predictions, or their number differs from the references'.
    """
    if len(predictions) != len(references) or not references:
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references: expected the same "
            "number, at least one (was a batch left out?)"
        )
    pairs = zip(predictions, references, strict=True)
    return sum(guess == answer for guess, answer in pairs) / len(references)


def exact_match_by_length(
    lengths: Sequence[int], correct: Sequence[bool], edges: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Return the fraction of correct outputs for each range of lengths that occurs.

    Args:
        lengths: length of each source, in the unit of the edges.
        correct: whether each output is correct.
        edges: increasing edges of the ranges, which include the lower edge but not the upper.

    Raises:
        DataError: there are not as many lengths as outputs, or a length is outside the edges.
    """
    if len(lengths) != len(correct):
        raise DataError(
            f"{len(lengths)} lengths and {len(correct)} outputs: expected the same number"
        )
    outside = [length for length in lengths if not edges[0] <= length < edges[-1]]
    if outside:
        raise DataError(
            f"{len(outside)} lengths, such as {outside[0]}, are outside the edges: expected "
            f"{edges[0]} <= length < {edges[-1]}"
        )
    shares = {}
    for low, high in pairwise(edges):
        inside = [
            right for length, right in zip(lengths, correct, strict=True) if low <= length < high
        ]
        if inside:
            shares[low, high] = sum(inside) / len(inside)
    return shares

"""What a translator says of a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qkv.attention.record import AttentionRecord
from qkv.generation.answer import Answer


@dataclass(frozen=True)
class Candidate:
    """One of several translations of a text, and what it was ranked by."""

    translation: str
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Translation(str):
    """The best translation of a text: a string, which knows more of itself.

    Args:
        text: that was translated.
        translation: of it; the string itself.
        score: its log-probability (nats), divided as the beam's length penalty says; of a text in
            parts, the sum of theirs.
        n_best: the best candidates, this one first; of a text in parts the k-th has the k-th best
            of each.
        note: what the reader should know: the text was split or cut, or the translation has no end.
    """

    text: str
    translation: str
    score: float
    n_best: list[Candidate]
    note: str = ""

    def __new__(cls, text: str, translation: str, *others: Any, **named: Any) -> "Translation":
        """Make the string."""
        return super().__new__(cls, translation)

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """What copying and pickling make the string of."""
        return self.text, self.translation


@dataclass(frozen=True)
class Alignment:
    """Where the model looked, token by token, while it wrote `output`."""

    source: list[str]
    output: list[str]
    weights: AttentionRecord  # by module: (1, heads, len(output), len(source)) for cross-attention


def put_together(
    text: str,
    parts: Sequence[Sequence[Answer]],
    *,
    decode: Callable[[list[int]], str],
    note: str = "",
) -> Translation:
    """Make one translation of the answers to a text's parts.

    Args:
        text: that was translated.
        parts: the answers to each, the best first.
        decode: tokens to text.
        note: what was done to the text before.
    """
    candidates = [
        Candidate(" ".join(decode(one.text) for one in kth), sum(one.score for one in kth))
        for kth in zip(*parts, strict=False)
    ]
    endless = [len(part[0].tokens) for part in parts if not part[0].ended]
    cut = f"cut off after {endless[0]} tokens (max_length), before its end" if endless else ""
    best = candidates[0]
    return Translation(
        text, best.translation, best.score, candidates, "; ".join(filter(None, (note, cut)))
    )

"""Entity F1: scores of tagged sentences, as conlleval computes them.

Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qkv.errors import DataError
from qkv.evaluation.intervals import bootstrap_interval


class Span(NamedTuple):
    """An entity: the words from `start` to `end`, the last not included, and its kind."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, kw_only=True)
class LabelScores:
    """The scores of one kind of entity; None where a score would be 0/0."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, kw_only=True)
class EntityScores:
    """Scores of predicted entities; an entity is right if both its words and its kind are.

    Args:
        count: number of sentences.
        entities: number of entities in the references.
        precision: fraction of the predicted entities that are right.
        recall: fraction of the entities that were found.
        f1: harmonic mean of both.
        f1_interval: 95 % interval, by the bootstrap over sentences.
        token_accuracy: fraction of words with the right tag.
        majority: token accuracy of always predicting the most frequent tag.
        labels: the scores of each kind.
    """

    count: int
    entities: int
    precision: float
    recall: float
    f1: float
    f1_interval: tuple[float, float]
    token_accuracy: float
    majority: float
    labels: tuple[LabelScores, ...]


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of BIO tags; an I- without a matching entity before it begins one."""
    spans, start, label = list[Span](), 0, ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if label and (prefix != "I" or kind != label):
            spans.append(Span(start, i, label))
            label = ""
        if tag != "O" and not label:
            start, label = i, kind or tag
    return spans


def entity_scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> EntityScores:
    """Score BIO tags of sentences.

    Args:
        truth: the tags of each sentence.
        predicted: the predicted tags of each sentence.

    Raises:
        DataError: there are no words, or a sentence has another number of predicted tags.
        MissingDependencyError: SciPy is not installed.
    """
    _check(truth, predicted)
    true, guessed = [set(spans(tags)) for tags in truth], [set(spans(tags)) for tags in predicted]
    right = [a & b for a, b in zip(true, guessed, strict=True)]
    # F1 = 2 right / (true + predicted): a mean over sentences, weighted by the denominators.
    sizes = [len(a) + len(b) for a, b in zip(true, guessed, strict=True)]
    each = [(2 * len(r) / n, n) for r, n in zip(right, sizes, strict=True) if n]
    by_label = [
        Counter(one.label for sentence in side for one in sentence)
        for side in (true, guessed, right)
    ]
    n_true, n_guessed, n_right = (count.total() for count in by_label)
    pairs = [pair for a, b in zip(truth, predicted, strict=True) for pair in zip(a, b, strict=True)]
    tags = Counter(tag for tag, _ in pairs)
    return EntityScores(
        count=len(truth),
        entities=n_true,
        precision=_ratio(n_right, n_guessed) or 0.0,
        recall=_ratio(n_right, n_true) or 0.0,
        f1=_ratio(2 * n_right, n_true + n_guessed) or 0.0,
        f1_interval=bootstrap_interval(*zip(*each, strict=True)) if each else (0.0, 0.0),
        token_accuracy=sum(a == b for a, b in pairs) / len(pairs),
        majority=max(tags.values()) / len(pairs),
        labels=tuple(
            _label_scores(label, *(count[label] for count in by_label))
            for label in sorted(by_label[0] | by_label[1])
        ),
    )


def _check(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if not any(truth) or [*map(len, truth)] != [*map(len, predicted)]:
        raise DataError(
            f"{len(truth)} sentences of {sum(map(len, truth))} words and {len(predicted)} "
            f"predictions of {sum(map(len, predicted))} tags; expected at least one word, and one "
            "tag per word"
        )


def _label_scores(label: str, n_true: int, n_guessed: int, n_right: int) -> LabelScores:
    return LabelScores(
        label=label,
        precision=_ratio(n_right, n_guessed),
        recall=_ratio(n_right, n_true),
        f1=_ratio(2 * n_right, n_true + n_guessed),
        support=n_true,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

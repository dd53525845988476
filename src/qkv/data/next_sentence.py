"""Next-sentence prediction: pairs of sentences, of which half follow each other."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batches import (
    Batches,
    Movable,
    check_lengths,
    group_by_tokens,
    pad_sequences,
)
from qkv.data.masking import Masking
from qkv.data.pretraining import TokenBatch, collate_asked
from qkv.errors import DataError

Sentence = Sequence[int]
LaidOut = tuple[list[int], list[int], int]  # tokens, segments, class
FOLLOWS, RANDOM = 0, 1  # the classes, numbered as in BERT's published heads


@dataclass(frozen=True, kw_only=True)
class SentencePairBatch(Movable):
    """Pairs as one text each, [start, first, separator, second, separator], padded on the right.

    Args:
        tokens: what the model reads.
        token_mask: True = a real token.
        segments: 1 from the second sentence on, its separator included, else 0.
        classes: `FOLLOWS` or `RANDOM`.
    """

    tokens: Int64[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    segments: Int64[Tensor, "batch length"]
    classes: Int64[Tensor, " batch"]

    @property
    def n_targets(self) -> int:
        """The number of targets, one a pair."""
        return len(self.classes)


@dataclass(frozen=True, kw_only=True)
class PreTrainingBatch(TokenBatch):
    """Pairs of sentences in which tokens are hidden: both objectives of BERT at once."""

    segments: Int64[Tensor, "batch length"]
    classes: Int64[Tensor, " batch"]


def draw_pairs(
    documents: Sequence[Sequence[Sentence]], rng: np.random.Generator
) -> list[tuple[Sentence, Sentence, int]]:
    """Each sentence that has a successor, followed by it or by a random one, half of them each.

    Devlin et al. 2019, section 3.1, task 2. The random sentence comes from the whole corpus; it is
    another than the first sentence and than its successor. A sentence that is repeated right away
    is no first sentence there.

    Args:
        documents: their sentences, in order.
        rng: what is drawn from.

    Returns:
        (first, second, class), in order of the corpus.

    Raises:
        DataError: no sentence has a successor, or there is nothing else to draw.
    """
    sentences = [tuple(sentence) for document in documents for sentence in document]
    ends = np.cumsum([len(document) for document in documents])
    last = set((ends - 1).tolist())
    firsts = [
        i for i in range(len(sentences) - 1) if i not in last and sentences[i] != sentences[i + 1]
    ]
    if not firsts or len(set(sentences)) < 3:
        raise DataError(
            f"{len(documents)} documents with {len(set(sentences))} different sentences give no "
            "pairs; expected at least 3, and a document of two or more (are sentences of a "
            "document kept together?)"
        )
    real = rng.permutation(len(firsts)) < (len(firsts) + 1) // 2

    def other(first: int) -> Sentence:
        while True:
            drawn = sentences[rng.integers(len(sentences))]
            if drawn not in (sentences[first], sentences[first + 1]):
                return drawn

    return [
        (sentences[i], sentences[i + 1], FOLLOWS) if follows else (sentences[i], other(i), RANDOM)
        for i, follows in zip(firsts, real, strict=True)
    ]


def next_sentence_batches(
    documents: Sequence[Sequence[Sentence]],
    *,
    max_tokens: int,
    pad: int,
    start: int,
    separator: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[SentencePairBatch]:
    """Pairs of similar length together, drawn anew in every epoch; see `draw_pairs`.

    Args:
        documents: their sentences, in order: ids without start and separator.
        max_tokens: the most positions of a batch, padding included.
        pad: id that fills short rows.
        start: id before a pair ([CLS]).
        separator: id after each sentence ([SEP]).
        seed: of everything drawn.
        epochs: which epochs to go through; `itertools.count()` never ends.

    Raises:
        DataError: with the first batch, if there are no pairs.
        LengthError: likewise, if a pair alone is longer than `max_tokens`.
    """

    def make(rows: list[LaidOut], _: np.random.Generator) -> SentencePairBatch:
        tokens, token_mask = pad_sequences([tokens for tokens, _, _ in rows], pad)
        return SentencePairBatch(tokens=tokens, token_mask=token_mask, **_asked_of_pairs(rows))

    plan = _plan(documents, start, separator, max_tokens, seed)
    return Batches(epochs, plan, make, seed=seed)


def pretraining_batches(
    documents: Sequence[Sequence[Sentence]],
    masking: Masking,
    *,
    max_tokens: int,
    pad: int,
    start: int,
    separator: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[PreTrainingBatch]:
    """The same pairs, in which tokens are hidden; the arguments are those of both objectives."""

    def make(rows: list[LaidOut], rng: np.random.Generator) -> PreTrainingBatch:
        masked = collate_asked([masking(tokens, rng) for tokens, _, _ in rows], pad=pad)
        return PreTrainingBatch(**{**vars(masked), **_asked_of_pairs(rows)})

    plan = _plan(documents, start, separator, max_tokens, seed)
    return Batches(epochs, plan, make, seed=seed)


def _plan(
    documents: Sequence[Sequence[Sentence]],
    start: int,
    separator: int,
    max_tokens: int,
    seed: int,
) -> Callable[[int], list[list[LaidOut]]]:
    """Number of an epoch to its groups of pairs, as the model reads them."""

    def plan(epoch: int) -> list[list[LaidOut]]:
        laid_out: list[LaidOut] = []
        for first, second, kind in draw_pairs(documents, np.random.default_rng((seed, epoch, 1))):
            tokens = [start, *first, separator, *second, separator]
            segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
            laid_out.append((tokens, segments, kind))
        lengths = [(len(tokens),) for tokens, _, _ in laid_out]
        check_lengths(lengths, max_tokens)
        groups = group_by_tokens(lengths, max_tokens, np.random.default_rng((seed, epoch)))
        return [[laid_out[row] for row in rows] for rows in groups]

    return plan


def _asked_of_pairs(rows: Sequence[LaidOut]) -> dict[str, Tensor]:
    segments, _ = pad_sequences([segments for _, segments, _ in rows], 0)
    return {"segments": segments, "classes": torch.tensor([kind for _, _, kind in rows])}

"""Batches of texts with classes: similar lengths together, so that little of them is padding."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batches import POOL, Batches, Movable, group_by_tokens, pad_sequences
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, LengthError
from qkv.json_fields import quoted


@dataclass(frozen=True, kw_only=True)
class ClassificationBatch(Movable):
    """Texts, padded on the right, and their classes.

    Args:
        tokens: what the model reads.
        token_mask: True = a real token.
        classes: one a text; None where they are what is asked.
        segments: 0 for the first text of a pair, 1 for the second; None for single texts.
        rows: which texts of the corpus these are; they stay on the host.
    """

    tokens: Int64[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    classes: Int64[Tensor, " batch"] | None
    segments: Int64[Tensor, "batch length"] | None = None
    rows: tuple[int, ...]

    @property
    def n_targets(self) -> int:
        """The number of texts: a shape, so that no one waits for a device to count."""
        return len(self.tokens)


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as a model reads them, its special tokens included.

    Args:
        ids: one list a text, or a pair of texts.
        lengths: tokens of each before it was cut.
        max_length: what they were cut to.
        segments: one list a pair, 0 for the first text and 1 for the second where the family tells
            them apart; None for single texts.
    """

    ids: list[list[int]]
    lengths: list[int]
    max_length: int
    segments: list[list[int]] | None = None

    @property
    def n_cut(self) -> int:
        """How many texts were too long."""
        return sum(length > self.max_length for length in self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest before it was cut."""
        return max(self.lengths, default=0)

    def note(self, row: int) -> str:
        """What was left out of a text, if anything was."""
        length = self.lengths[row]
        if length <= self.max_length:
            return ""
        return f"{length:,} tokens, of which the model read the first {self.max_length:,}"

    def __str__(self) -> str:
        """What to say of the lengths."""
        if not self.n_cut:
            return f"{len(self.ids)} texts, the longest of {self.longest} tokens; none was cut"
        return (
            f"{self.n_cut} of {len(self.ids)} texts ({self.n_cut / len(self.ids):.1%}) were cut to "
            f"their first {self.max_length} tokens; the longest had {self.longest}"
        )


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    seconds: Sequence[str] | None = None,
    *,
    max_length: int,
) -> EncodedTexts:
    """Encode texts, or pairs of them, and put the family's special tokens around each.

    Of a text that is too long the beginning stays: as many tokens as fit between the special ones.
    Of a pair the longer text loses its last token until both fit, as in Devlin et al. 2019.

    Args:
        tokenizer: of the model.
        texts: to classify.
        seconds: the second text of each, where pairs are classified.
        max_length: the most tokens of a text or a pair, special ones included.

    Raises:
        LengthError: no token fits.
        DataError: a text has no tokens, or there is not a second text for each.
    """
    parts = [texts] if seconds is None else [texts, seconds]
    if len({len(part) for part in parts}) > 1:
        raise DataError(f"{len(texts)} texts and {len(parts[-1])} second ones; expected as many")
    around = len(tokenizer.add_special_tokens(*([] for _ in parts)).ids)
    if max_length < around + len(parts):
        raise LengthError(
            f"max_length = {max_length} leaves no room for text: the special tokens around it "
            f"take {around}"
        )
    columns = [
        _encode(tokenizer, part, what)
        for part, what in zip(parts, ("text", "second text"), strict=False)
    ]
    rows = list(zip(*columns, strict=True))
    wrapped = [tokenizer.add_special_tokens(*_fit(row, max_length - around)) for row in rows]
    lengths = [sum(map(len, row)) + around for row in rows]
    return EncodedTexts(
        ids=[one.ids for one in wrapped],
        lengths=lengths,
        max_length=max_length,
        segments=None if seconds is None else [one.segments for one in wrapped],
    )


def _encode(tokenizer: Tokenizer, texts: Sequence[str], what: str) -> list[list[int]]:
    encoded = tokenizer.encode_batch(texts)
    for row, ids in enumerate(encoded, start=1):
        if not ids:
            raise DataError(f"{what} {row} has no tokens: {quoted(texts[row - 1])} (is it empty?)")
    return encoded


def _fit(parts: Sequence[list[int]], room: int) -> list[list[int]]:
    """One text or two that have `room` tokens together; of two the longer one is cut first."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = map(len, parts)
    # Half of the room is the first text's in any case, and what the second does not need.
    first = min(first, max(room - second, -(-room // 2)))
    return [parts[0][:first], parts[1][: room - first]]


def classification_batches(
    texts: Sequence[Sequence[int]],
    classes: Sequence[int],
    *,
    pad: int,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    segments: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[ClassificationBatch]:
    """Batches to train on, of texts of similar length, each text once an epoch.

    How texts are grouped and in which order the groups come depends on `seed` and on the epoch's
    number, on nothing else.

    Args:
        texts: ids, special tokens included.
        classes: their numbers.
        pad: id that fills short rows.
        max_tokens: the most positions of a batch, padding included; either this is given
        batch_size: or the most texts; no batch is much smaller than another.
        segments: of the texts' tokens, where these are pairs.
        seed: of the shuffling.
        epochs: which epochs to go through; `itertools.count()` never ends, for training by steps.

    Raises:
        DataError: no texts, an empty one, or a number of classes or segments that does not fit.
        ConfigError: none of `max_tokens` and `batch_size`, both, or less than 1.
        LengthError: a text alone is longer than `max_tokens`.
    """
    lengths = _lengths(texts, classes, segments, max_tokens, batch_size)

    def plan(epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((seed, epoch))
        if max_tokens is not None:
            return group_by_tokens(lengths, max_tokens, rng)
        return _group_by_number(lengths, batch_size or 1, rng)

    def make(rows: list[int], _: np.random.Generator) -> ClassificationBatch:
        return _collate(texts, classes, segments, rows, pad)

    return Batches(epochs, plan, make, seed=seed)


def evaluation_batches(
    texts: Sequence[Sequence[int]],
    classes: Sequence[int] | None = None,
    *,
    pad: int,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    segments: Sequence[Sequence[int]] | None = None,
) -> list[ClassificationBatch]:
    """Batches to ask a model about, longest texts first, always the same; `in_order` undoes this.

    What does not fit into memory so fails at once. The arguments and errors are those of
    `classification_batches`; without classes these are None in the batches.
    """
    lengths = _lengths(texts, classes, segments, max_tokens, batch_size)
    order = sorted(range(len(texts)), key=lambda row: -lengths[row][0])
    groups, first = list[list[int]](), 0
    while first < len(order):
        size = batch_size or (max_tokens or 0) // lengths[order[first]][0]
        groups.append(order[first : first + size])
        first += size
    return [_collate(texts, classes, segments, rows, pad) for rows in groups]


def in_order(batches: Sequence[ClassificationBatch], outputs: Sequence[Tensor]) -> Tensor:
    """What a model said of each batch, as rows in the order of the corpus.

    Raises:
        DataError: an output is missing, or has another number of rows than its batch.
    """
    given, wanted = [len(output) for output in outputs], [len(batch.rows) for batch in batches]
    if given != wanted:
        raise DataError(f"outputs of {given} rows for batches of {wanted}; expected one a text")
    order = torch.tensor([row for batch in batches for row in batch.rows])
    stacked = torch.cat(list(outputs))
    return stacked[order.argsort().to(stacked.device)]


def _group_by_number(
    lengths: Sequence[tuple[int]], batch_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """Rows grouped by similar lengths, about as many in each group, in random order."""
    groups: list[list[int]] = []
    for pool in np.array_split(rng.permutation(len(lengths)), math.ceil(len(lengths) / POOL)):
        rows = sorted(pool.tolist(), key=lambda row: lengths[row])
        # Full groups and a small one would give the texts in that, the longest, more weight.
        parts = np.array_split(rows, math.ceil(len(rows) / batch_size))
        groups += [part.tolist() for part in parts]
    return [groups[i] for i in rng.permutation(len(groups))]


def _collate(
    texts: Sequence[Sequence[int]],
    classes: Sequence[int] | None,
    segments: Sequence[Sequence[int]] | None,
    rows: Sequence[int],
    pad: int,
) -> ClassificationBatch:
    tokens, token_mask = pad_sequences([texts[row] for row in rows], pad)
    return ClassificationBatch(
        tokens=tokens,
        token_mask=token_mask,
        classes=None if classes is None else torch.tensor([classes[row] for row in rows]),
        segments=None if segments is None else pad_sequences([segments[row] for row in rows], 0)[0],
        rows=tuple(rows),
    )


def _lengths(
    texts: Sequence[Sequence[int]],
    classes: Sequence[int] | None,
    segments: Sequence[Sequence[int]] | None,
    max_tokens: int | None,
    batch_size: int | None,
) -> list[tuple[int]]:
    """The texts' lengths, once all that is given fits together."""
    if not texts:
        raise DataError("no texts to batch: expected at least one (is the table empty?)")
    lengths = [(len(text),) for text in texts]
    if min(lengths) == (0,):
        raise DataError(f"text {lengths.index((0,)) + 1} has no tokens; expected at least one")
    if classes is not None and len(classes) != len(texts):
        raise DataError(f"{len(classes)} classes for {len(texts)} texts; expected one a text")
    if segments is not None and [(len(of_text),) for of_text in segments] != lengths:
        raise DataError("texts and segments differ in number or length; expected one a token")
    if max_tokens is None and batch_size is not None and batch_size >= 1:
        return lengths
    if max_tokens is None or batch_size is not None or max_tokens < 1:
        raise ConfigError(
            f"max_tokens = {max_tokens} and batch_size = {batch_size}; expected one of them, at "
            "least 1"
        )
    if max(lengths)[0] > max_tokens:
        raise LengthError(
            f"text {lengths.index(max(lengths)) + 1} takes {max(lengths)[0]} tokens, expected at "
            f"most max_tokens = {max_tokens}: raise it, or cut long texts"
        )
    return lengths

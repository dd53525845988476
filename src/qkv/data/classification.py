"""Encoding and batching of texts with classes; similar lengths share a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from qkv.data.batches import (
    Batches,
    Batching,
    Movable,
    bucketed_batches,
    check_lengths,
    pad_sequences,
)
from qkv.data.tokenizers import Tokenizer
from qkv.errors import DataError, LengthError
from qkv.json_fields import quoted


@dataclass(frozen=True, kw_only=True)
class ClassificationBatch(Movable):
    """Texts, padded on the right, and their classes.

    Args:
        tokens: token ids, the model's input.
        token_mask: True = a real token.
        classes: the class of each text; for texts with several classes, one row of 0 and 1 per
            text; None for prediction.
        segments: 0 for the first text of a pair, 1 for the second; None for single texts.
        rows: indices of the texts in the corpus; they stay on the host.
    """

    tokens: Int64[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    classes: Int64[Tensor, " batch"] | Float[Tensor, "batch classes"] | None
    segments: Int64[Tensor, "batch length"] | None = None
    rows: tuple[int, ...]

    @property
    def n_targets(self) -> int:
        """Number of texts, known from a shape without waiting for a device."""
        return len(self.tokens)


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded texts, or pairs of texts, with special tokens.

    Args:
        ids: the token ids of each text or pair.
        lengths: number of tokens of each before truncation.
        max_length: maximum length after truncation.
        segments: of each pair's tokens: 0 for the first text, 1 for the second in families that
            distinguish them; None for single texts.
    """

    ids: list[list[int]]
    lengths: list[int]
    max_length: int
    segments: list[list[int]] | None = None

    @property
    def n_cut(self) -> int:
        """Number of truncated texts."""
        return sum(length > self.max_length for length in self.lengths)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text before truncation."""
        return max(self.lengths, default=0)

    def note(self, row: int) -> str:
        """Describe the truncation of a text; empty if there was none."""
        length = self.lengths[row]
        if length <= self.max_length:
            return ""
        return f"{length:,} tokens, of which the model read the first {self.max_length:,}"

    def __str__(self) -> str:
        """Summarize lengths and truncation in one line."""
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
    """Encode texts, or pairs of texts, with the special tokens of the model family.

    A text that is too long keeps its first tokens. In a pair, the longer text loses its last token
    until both fit, as in Devlin et al. 2019.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts to classify.
        seconds: the second text of each pair; None for single texts.
        max_length: maximum number of tokens, special tokens included.

    Raises:
        LengthError: `max_length` leaves no room for text.
        DataError: a text has no tokens, or the numbers of first and second texts differ.
    """
    parts = [texts] if seconds is None else [texts, seconds]
    if len({len(part) for part in parts}) > 1:
        raise DataError(
            f"{len(texts)} texts and {len(parts[-1])} second texts; expected one of each per pair"
        )
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
    """Truncate one text or two to `room` tokens in total; of two, the longer one first."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = map(len, parts)
    # The first text may take half of the room, and what the second one does not need.
    first = min(first, max(room - second, -(-room // 2)))
    return [parts[0][:first], parts[1][: room - first]]


def classification_batches(
    texts: EncodedTexts,
    targets: Sequence[int] | Sequence[Sequence[float]],
    *,
    pad: int,
    batching: Batching,
) -> Batches[ClassificationBatch]:
    """Batch texts of similar length for training.

    Args:
        texts: token ids from `encode_texts`, special tokens included.
        targets: the class of each text, or, where a text may have several, a row of 0 and 1 with
            one number per class.
        pad: id that fills short rows.
        batching: see `bucketed_batches`, also for the errors.

    Raises:
        DataError: the numbers of texts and targets differ.
    """
    if len(targets) != len(texts.ids):
        raise DataError(f"{len(targets)} targets for {len(texts.ids)} texts; expected one per text")

    def make(rows: list[int], _: np.random.Generator) -> ClassificationBatch:
        return _collate(texts.ids, texts.segments, rows, pad, targets)

    return bucketed_batches([(len(ids),) for ids in texts.ids], make, batching)


def tokens_at_once(device: torch.device) -> int:
    """Return how many positions a batch without targets should have at most.

    On a CPU, batches of 2,048 are already slower than 1,024: the states of a feed-forward network
    no longer fit the cache (MiniLM, 512 sentences: 1.6 times as long at 8,000 as at 1,024). An
    accelerator needs larger batches.
    """
    return 1_024 if device.type == "cpu" else 8_000


def evaluation_batches(
    texts: Sequence[Sequence[int]],
    *,
    pad: int,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    segments: Sequence[Sequence[int]] | None = None,
) -> list[ClassificationBatch]:
    """Batch texts without targets, longest first; `in_order` restores the order of the texts.

    With the longest first, a lack of memory shows on the first batch.

    Args:
        texts: token ids, special tokens included.
        pad: id that fills short rows.
        max_tokens: maximum number of positions per batch, padding included.
        batch_size: number of texts per batch; give exactly one of the two.
        segments: segments of the tokens, for pairs of texts.

    Raises:
        DataError: there are no texts, one is empty, or the segments differ from them in length.
        ConfigError: not exactly one of `max_tokens` and `batch_size`, or less than 1.
        LengthError: a text alone is longer than `max_tokens`.
    """
    Batching(max_tokens=max_tokens, batch_size=batch_size)  # checks the sizes
    lengths = [len(text) for text in texts]
    check_lengths([(length,) for length in lengths], max_tokens)
    if segments is not None and [*map(len, segments)] != lengths:
        raise DataError("texts and segments differ in number or length; expected one per token")
    order = sorted(range(len(texts)), key=lambda row: -lengths[row])
    batches, first = list[ClassificationBatch](), 0
    while first < len(order):
        size = batch_size or (max_tokens or 0) // lengths[order[first]]
        batches.append(_collate(texts, segments, order[first : first + size], pad))
        first += size
    return batches


def in_order(batches: Sequence[ClassificationBatch], outputs: Sequence[Tensor]) -> Tensor:
    """Concatenate a model's outputs for the batches, in the order of the corpus.

    Raises:
        DataError: an output is missing, or its number of rows is not that of its batch.
    """
    actual, wanted = [len(output) for output in outputs], [len(batch.rows) for batch in batches]
    if actual != wanted:
        raise DataError(f"outputs of {actual} rows for batches of {wanted}; expected one per text")
    order = torch.tensor([row for batch in batches for row in batch.rows])
    stacked = torch.cat(list(outputs))
    return stacked[order.argsort().to(stacked.device)]


def _collate(
    texts: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None,
    rows: Sequence[int],
    pad: int,
    targets: Sequence[int] | Sequence[Sequence[float]] | None = None,
) -> ClassificationBatch:
    tokens, token_mask = pad_sequences([texts[row] for row in rows], pad)
    return ClassificationBatch(
        tokens=tokens,
        token_mask=token_mask,
        classes=None if targets is None else torch.tensor([targets[row] for row in rows]),
        segments=None if segments is None else pad_sequences([segments[row] for row in rows], 0)[0],
        rows=tuple(rows),
    )

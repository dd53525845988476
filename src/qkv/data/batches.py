"""Batches of (source, target) pairs: padding, masks, and batching by number of tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.errors import DataError, LengthError

Pair = tuple[Sequence[int], Sequence[int]]  # (source ids, target ids), without start and stop

# Pairs are sorted by length within pools of this many: enough that neighbours have nearly equal
# lengths, few enough that each epoch groups a large corpus differently.
POOL = 20_000


@dataclass(frozen=True)
class PairBatch:
    """Sources and targets for teacher forcing, padded on the right; masks: True = a real token.

    `target_input` is what the decoder reads, [start, y1, ..., yn]; `target` is what it should
    answer, [y1, ..., yn, stop]. One mask serves both: they have the same length.
    """

    source: Int64[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_input: Int64[Tensor, "batch target"]
    target: Int64[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"]

    @property
    def n_tokens(self) -> int:
        """The number of real target tokens, `stop` included."""
        return int(self.target_mask.sum())

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same batch on another device."""
        return PairBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def pad_sequences(
    sequences: Sequence[Sequence[int]], pad: int
) -> tuple[Int64[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Pad sequences of ids on the right to the longest: the ids, and the mask of real tokens.

    Raises:
        DataError: no sequence is given.
    """
    if not sequences:
        raise DataError("no sequence to pad: expected at least one (is the corpus empty?)")
    lengths = torch.tensor([len(sequence) for sequence in sequences])  # (B,)
    token_mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
    ids = torch.full(token_mask.shape, pad, dtype=torch.int64)
    ids[token_mask] = torch.tensor(
        [i for sequence in sequences for i in sequence], dtype=torch.int64
    )
    return ids, token_mask


def collate_pairs(pairs: Sequence[Pair], *, pad: int, start: int, stop: int) -> PairBatch:
    """One batch: `start` before each target and `stop` after it, sources as they are."""
    source, source_mask = pad_sequences([source for source, _ in pairs], pad)
    target_input, target_mask = pad_sequences([[start, *target] for _, target in pairs], pad)
    target, _ = pad_sequences([[*target, stop] for _, target in pairs], pad)
    return PairBatch(source, source_mask, target_input, target, target_mask)


def batches_by_tokens(
    pairs: Sequence[Pair],
    *,
    max_tokens: int,
    pad: int,
    start: int,
    stop: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Iterator[PairBatch]:
    """Batches of about equal work: as many pairs of similar length as `max_tokens` hold.

    In every epoch each pair appears exactly once. How pairs are grouped, and in which order the
    batches come, depends on `seed` and on the epoch's number, on nothing else.

    Args:
        pairs: (source ids, target ids), without start and stop.
        max_tokens: the most positions, padding included, of the batch's larger side.
        pad: id that fills short rows.
        start: id before each target.
        stop: id after each target.
        seed: of the shuffling.
        epochs: which epochs to go through; `itertools.count()` never ends, for training by steps,
            and `itertools.count(3)` resumes at the fourth.

    Raises:
        DataError: there are no pairs.
        LengthError: a pair alone is longer than `max_tokens`.
    """
    if not pairs:
        raise DataError("no pairs to batch: expected at least one (is the corpus empty?)")
    lengths = _lengths(pairs, max_tokens)
    return (
        collate_pairs([pairs[row] for row in rows], pad=pad, start=start, stop=stop)
        for epoch in epochs
        for rows in group_by_tokens(lengths, max_tokens, np.random.default_rng((seed, epoch)))
    )


def _lengths(pairs: Sequence[Pair], max_tokens: int) -> list[tuple[int, int]]:
    """The padded lengths that each pair needs on both sides, none above `max_tokens`."""
    # The decoder's side has one position more than the target has tokens.
    lengths = [(len(source), len(target) + 1) for source, target in pairs]
    for row, (source_length, target_length) in enumerate(lengths):
        if max(source_length, target_length) > max_tokens:
            raise LengthError(
                f"pair {row} has {source_length} source and {target_length - 1} target tokens (and "
                f"1 for start or stop), expected at most max_tokens={max_tokens}: raise it, or "
                "leave long pairs out"
            )
    return lengths


def group_by_tokens(
    lengths: Sequence[tuple[int, ...]], max_tokens: int, rng: np.random.Generator
) -> list[list[int]]:
    """Rows grouped by similar lengths, each group within `max_tokens`, in random order.

    Args:
        lengths: of each row's sides, none above `max_tokens`.
        max_tokens: the most positions, padding included, of a group's larger side.
        rng: what the groups and their order depend on.
    """

    def size(row: int) -> tuple[int, tuple[int, ...]]:
        return max(lengths[row]), lengths[row]

    order = rng.permutation(len(lengths)).tolist()
    groups: list[list[int]] = []
    for first in range(0, len(order), POOL):
        group: list[int] = []
        for row in sorted(order[first : first + POOL], key=size):
            # In this order the row at hand is the longest so far.
            if (len(group) + 1) * max(lengths[row]) > max_tokens:
                groups.append(group)
                group = []
            group.append(row)
        groups.append(group)
    return [groups[i] for i in rng.permutation(len(groups))]

"""Batches: padding, masks, grouping by number of tokens, and a place in the data to return to."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.errors import DataError, LengthError

Batch = TypeVar("Batch")
Moved = TypeVar("Moved", bound="Movable")
Group = TypeVar("Group")
Pair = tuple[Sequence[int], Sequence[int]]  # (source ids, target ids), without start and stop

# Pairs are sorted by length within pools of this many: enough that neighbours have nearly equal
# lengths, few enough that each epoch groups a large corpus differently.
POOL = 20_000


class Batches(Generic[Batch]):
    """Batches of one epoch after the other; where it stands can be read, and returned to.

    What a batch holds depends on the seed, the epoch's number and the batch's place in it, on
    nothing else: so a run that was killed meets the batches that it would have met.

    Args:
        epochs: their numbers; `itertools.count()` never ends.
        plan: number of an epoch to its groups, one a batch.
        make: (group, random numbers of this batch) to the batch.
        seed: of the random numbers.
    """

    def __init__(
        self,
        epochs: Iterable[int],
        plan: Callable[[int], Sequence[Group]],
        make: Callable[[Group, np.random.Generator], Batch],
        *,
        seed: int,
    ):
        # What a group is, is known to `plan` and `make` alone.
        self._plan: Callable[[int], Sequence[Any]] = plan
        self._make: Callable[[Any, np.random.Generator], Batch] = make
        self._epochs, self._seed = iter(epochs), seed
        self._finished, self._place = -1, 0  # before the first epoch
        self._groups: Sequence[Any] = ()
        self._epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while self._place == len(self._groups):
            self._turn()
        group, place = self._groups[self._place], self._place
        self._place += 1
        # The last number keeps these apart from those of the plan.
        return self._make(group, np.random.default_rng((self._seed, self._epoch, place, 1)))

    @property
    def n_batches(self) -> int:
        """How many an epoch has; of epochs that differ, the first."""
        return len(self._plan(0))

    @property
    def position(self) -> tuple[int, int]:
        """How many epochs are over, and how many batches of the present one."""
        return max(self._finished, 0), self._place

    def seek(self, position: tuple[int, int]) -> None:
        """Go on where `position` was read; only forward, past whole epochs without making a batch.

        Raises:
            DataError: the position lies behind, or beyond the end.
        """
        finished, place = position
        if (finished, place) < self.position:
            raise DataError(f"batches at {self.position} cannot go back to {position}: make anew")
        try:
            while self._finished < finished:
                self._turn()
        except StopIteration:
            raise DataError(
                f"no position {position}: there are {self._finished + 1} epochs"
            ) from None
        if place > len(self._groups):
            raise DataError(
                f"no position {position}: the epoch has {len(self._groups)} batches (is the data, "
                "or the size of a batch, another than when the position was read?)"
            )
        self._place = place

    def _turn(self) -> None:
        """Begin the next epoch."""
        self._epoch = next(self._epochs)
        self._groups, self._place = self._plan(self._epoch), 0
        self._finished += 1


@dataclass(frozen=True)
class Movable:
    """A dataclass of tensors."""

    def to(self: Moved, device: torch.device | str) -> Moved:
        """The same batch on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class PairBatch(Movable):
    """Sources and targets for teacher forcing, padded on the right; masks: True = a real token.

    `target_input` is what the decoder reads, [start, y1, ..., yn]; `target` is what it should
    answer, [y1, ..., yn, stop]. One mask serves both: they have the same length. `n_targets`, the
    number of real target tokens, was counted where the batch was made, as asking the mask would
    have the host wait for an accelerator.
    """

    source: Int64[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_input: Int64[Tensor, "batch target"]
    target: Int64[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"]
    n_targets: int


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
    n_targets = sum(len(target) + 1 for _, target in pairs)
    return PairBatch(source, source_mask, target_input, target, target_mask, n_targets)


def batches_by_tokens(
    pairs: Sequence[Pair],
    *,
    max_tokens: int,
    pad: int,
    start: int,
    stop: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[PairBatch]:
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
        epochs: which epochs to go through; `itertools.count()` never ends, for training by steps.

    Raises:
        DataError: there are no pairs.
        LengthError: a pair alone is longer than `max_tokens`.
    """
    # The decoder's side has one position more than the target has tokens.
    lengths = [(len(source), len(target) + 1) for source, target in pairs]
    for row, sides in enumerate(lengths):
        if max(sides) > max_tokens:
            raise LengthError(
                f"pair {row} has {sides[0]} source and {sides[1] - 1} target tokens (and 1 for "
                f"start or stop), expected at most max_tokens={max_tokens}: raise it, or leave "
                "long pairs out"
            )

    def make(rows: list[int], _: np.random.Generator) -> PairBatch:
        return collate_pairs([pairs[row] for row in rows], pad=pad, start=start, stop=stop)

    return bucketed_batches(lengths, make, max_tokens=max_tokens, seed=seed, epochs=epochs)


def bucketed_batches(
    lengths: Sequence[tuple[int, ...]],
    make: Callable[[list[int], np.random.Generator], Batch],
    *,
    max_tokens: int,
    seed: int,
    epochs: Iterable[int],
) -> Batches[Batch]:
    """Batches of rows of similar length, of about equal work; each row comes once an epoch.

    Args:
        lengths: of each row's sides.
        make: (numbers of the rows, random numbers of this batch) to the batch.
        max_tokens: the most positions, padding included, of a batch's larger side.
        seed: of everything drawn.
        epochs: which epochs to go through.

    Raises:
        DataError: there are no rows.
        LengthError: a row alone is longer than `max_tokens`.
    """
    check_lengths(lengths, max_tokens)

    def plan(epoch: int) -> list[list[int]]:
        return group_by_tokens(lengths, max_tokens, np.random.default_rng((seed, epoch)))

    return Batches(epochs, plan, make, seed=seed)


def check_lengths(lengths: Sequence[tuple[int, ...]], max_tokens: int) -> None:
    """Refuse to batch nothing, and what is longer than a batch.

    Raises:
        DataError: there are no rows.
        LengthError: a row alone is longer than `max_tokens`.
    """
    if not lengths:
        raise DataError("nothing to batch: expected at least one text (is the corpus empty?)")
    for row, sides in enumerate(lengths):
        if max(sides) > max_tokens:
            raise LengthError(
                f"text {row} takes {max(sides)} tokens, expected at most max_tokens={max_tokens}: "
                "raise it, or cut long texts"
            )


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

"""Batches: how examples are grouped, padded and masked, and an iterator that can be resumed."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.errors import ConfigError, DataError, LengthError

Batch = TypeVar("Batch")
Moved = TypeVar("Moved", bound="Movable")
Group = TypeVar("Group")
Pair = tuple[Sequence[int], Sequence[int]]  # (source ids, target ids), without start and stop

# Examples are sorted by length within pools of this size: large enough that neighbors have nearly
# equal lengths, small enough that each epoch groups a large corpus differently.
POOL = 20_000


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How examples are grouped into batches.

    Args:
        max_tokens: maximum number of positions per batch, padding included.
        batch_size: number of examples per batch; give exactly one of the two.
        seed: determines, with the number of the epoch, the groups and their order.
        epochs: passes over the examples; None never ends.

    Raises:
        ConfigError: not exactly one of the two sizes, or a number below 1.
    """

    max_tokens: int | None = None
    batch_size: int | None = None
    seed: int = 0
    epochs: int | None = 1

    def __post_init__(self) -> None:
        """Check the sizes."""
        sizes = [size for size in (self.max_tokens, self.batch_size) if size is not None]
        if len(sizes) != 1 or sizes[0] < 1:
            raise ConfigError(
                f"max_tokens = {self.max_tokens} and batch_size = {self.batch_size}; expected one "
                "of them, at least 1"
            )
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(
                f"epochs = {self.epochs}; expected at least 1, or None for endless batches"
            )

    @property
    def epoch_numbers(self) -> Iterable[int]:
        """The numbers of the epochs, from 0."""
        return itertools.count() if self.epochs is None else range(self.epochs)

    def rng(self, epoch: int) -> np.random.Generator:
        """The random numbers that group the examples of an epoch."""
        return np.random.default_rng((self.seed, epoch))


class Batches(Generic[Batch]):
    """A resumable batch iterator: its position can be saved and restored.

    A batch depends only on the seed, the number of the epoch and its index in the epoch, so a
    resumed run sees the same batches as one that was never interrupted.

    Args:
        epochs: numbers of the epochs; `itertools.count()` never ends.
        plan: maps the number of an epoch to its groups, one per batch.
        make: maps a group and the batch's random numbers to the batch.
        seed: seed of the batches' random numbers.
    """

    def __init__(
        self,
        epochs: Iterable[int],
        plan: Callable[[int], Sequence[Group]],
        make: Callable[[Group, np.random.Generator], Batch],
        *,
        seed: int,
    ):
        # Only `plan` and `make` know the type of a group.
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
        # The last number separates these random numbers from those of the plan.
        return self._make(group, np.random.default_rng((self._seed, self._epoch, place, 1)))

    @property
    def n_batches(self) -> int:
        """Number of batches in the first epoch."""
        return len(self._plan(0))

    @property
    def position(self) -> tuple[int, int]:
        """Number of finished epochs, and of batches taken from the current one."""
        return max(self._finished, 0), self._place

    def seek(self, position: tuple[int, int]) -> None:
        """Continue from a saved `position`; skips forward without making the batches.

        Raises:
            DataError: the position is before the current one, or beyond the end.
        """
        finished, place = position
        if (finished, place) < self.position:
            raise DataError(
                f"batches at {self.position} cannot go back to {position}; expected a later "
                "position: make new batches"
            )
        try:
            while self._finished < finished:
                self._turn()
        except StopIteration:
            raise DataError(
                f"no position {position}: there are {self._finished + 1} epochs (was it saved "
                "with more epochs?)"
            ) from None
        if place > len(self._groups):
            raise DataError(
                f"no position {position}: the epoch has {len(self._groups)} batches (have the data "
                "or the batch size changed since the position was saved?)"
            )
        self._place = place

    def _turn(self) -> None:
        """Start the next epoch."""
        self._epoch = next(self._epochs)
        self._groups, self._place = self._plan(self._epoch), 0
        self._finished += 1


@dataclass(frozen=True)
class Movable:
    """A dataclass of tensors."""

    def to(self: Moved, device: torch.device | str) -> Moved:
        """Return the batch on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **moved)

    @property
    def n_rows(self) -> int:
        """Number of examples, or of rows that hold several."""
        return len(next(value for value in vars(self).values() if isinstance(value, Tensor)))

    def take(self: Moved, kept: slice) -> Moved:
        """Return some of the rows, padded as before, such as the share of one process.

        Every tensor and tuple of the batch has one entry per row; a class for which this does not
        hold, or which counts its targets, overrides this method.
        """
        by_row = {n: v for n, v in vars(self).items() if isinstance(v, Tensor | tuple)}
        return dataclasses.replace(self, **{name: value[kept] for name, value in by_row.items()})


@dataclass(frozen=True)
class PairBatch(Movable):
    """Sources and targets for teacher forcing, padded on the right; masks: True = a real token.

    Args:
        source: token ids of the sources.
        source_mask: of the sources.
        target_input: [start, y1, ..., yn], the decoder's input.
        target: [y1, ..., yn, stop], its expected output.
        target_mask: of both, which have the same length.
        n_targets: number of real target tokens, counted on the host: counting them in the mask
            would make the host wait for an accelerator.
    """

    source: Int64[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_input: Int64[Tensor, "batch target"]
    target: Int64[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"]
    n_targets: int

    def take(self, kept: slice) -> "PairBatch":
        """Return some of the rows."""
        fewer = super().take(kept)
        return dataclasses.replace(fewer, n_targets=int(fewer.target_mask.sum()))


def targets_of_rows(
    at: Int64[Tensor, " targets"], shape: Sequence[int], kept: slice
) -> tuple[Bool[Tensor, " targets"], Int64[Tensor, " kept"]]:
    """Return which flattened indices lie in the kept rows, and their indices among these rows.

    Args:
        at: indices into `tokens.flatten()`.
        shape: shape of the tokens, (rows, positions).
        kept: the rows to keep.
    """
    n_rows, length = shape
    place = torch.full((n_rows,), -1)
    rows = torch.arange(n_rows)[kept]
    place[rows] = torch.arange(len(rows))
    new = place[at.cpu() // length]
    chosen = new >= 0
    return chosen.to(at.device), (new * length + at.cpu() % length)[chosen].to(at.device)


def pad_sequences(
    sequences: Sequence[Sequence[int]], pad: int
) -> tuple[Int64[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Pad sequences of ids on the right to the longest; return the ids and the token mask.

    Raises:
        DataError: there are no sequences.
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
    """Make one batch: `start` before each target and `stop` after it, sources as they are."""
    source, source_mask = pad_sequences([source for source, _ in pairs], pad)
    target_input, target_mask = pad_sequences([[start, *target] for _, target in pairs], pad)
    target, _ = pad_sequences([[*target, stop] for _, target in pairs], pad)
    n_targets = sum(len(target) + 1 for _, target in pairs)
    return PairBatch(source, source_mask, target_input, target, target_mask, n_targets)


def pair_batches(
    pairs: Sequence[Pair],
    *,
    pad: int,
    start: int,
    stop: int,
    batching: Batching,
    vary: Callable[[Sequence[int], np.random.Generator], Sequence[int]] | None = None,
) -> Batches[PairBatch]:
    """Batch sources with their targets; `max_tokens` limits the larger of the two sides.

    Args:
        pairs: (source ids, target ids), without start and stop.
        pad: id that fills short rows.
        start: id before each target.
        stop: id after each target.
        batching: see `bucketed_batches`, also for the errors.
        vary: called whenever a text is batched; returns other ids of the same text, so that batches
            may exceed `max_tokens`.
    """
    # The decoder's side has one position more than the target has tokens.
    lengths = [(len(source), len(target) + 1) for source, target in pairs]

    def make(rows: list[int], rng: np.random.Generator) -> PairBatch:
        chosen = [pairs[row] for row in rows]
        if vary is not None:
            chosen = [(vary(source, rng), vary(target, rng)) for source, target in chosen]
        return collate_pairs(chosen, pad=pad, start=start, stop=stop)

    return bucketed_batches(lengths, make, batching)


def bucketed_batches(
    lengths: Sequence[tuple[int, ...]],
    make: Callable[[list[int], np.random.Generator], Batch],
    batching: Batching,
) -> Batches[Batch]:
    """Batch examples of similar length; each example appears exactly once per epoch.

    The groups and their order depend only on the seed and the number of the epoch.

    Args:
        lengths: lengths of each example's sides, such as its source and its target.
        make: maps the indices of a group's examples and the batch's random numbers to the batch.
        batching: `max_tokens` limits the padded size of the larger side; with `batch_size` groups
            differ in size by one at most.

    Raises:
        DataError: there are no examples, or one has no tokens.
        LengthError: an example alone is longer than `max_tokens`.
    """
    check_lengths(lengths, batching.max_tokens)

    def plan(epoch: int) -> list[list[int]]:
        rng = batching.rng(epoch)
        if batching.max_tokens is not None:
            groups = _group_by_tokens(lengths, batching.max_tokens, rng)
        else:
            groups = _group_by_number(lengths, batching.batch_size or 1, rng)
        return [groups[i] for i in rng.permutation(len(groups))]

    return Batches(batching.epoch_numbers, plan, make, seed=batching.seed)


def check_lengths(lengths: Sequence[tuple[int, ...]], max_tokens: int | None) -> None:
    """Check that there are examples, and that each fits into a batch; they are counted from 1.

    Raises:
        DataError: there are no examples, or one has no tokens.
        LengthError: examples are longer than `max_tokens`; the message names the longest.
    """
    if not lengths:
        raise DataError("no examples to batch: expected at least one (is the corpus empty?)")
    longest = [max(sides) for sides in lengths]
    if 0 in longest:
        raise DataError(f"example {longest.index(0) + 1} has no tokens; expected at least one")
    if max_tokens is not None and max(longest) > max_tokens:
        raise LengthError(
            f"{sum(length > max_tokens for length in longest):,} of {len(lengths):,} examples are "
            f"longer than max_tokens = {max_tokens}; the longest, example "
            f"{longest.index(max(longest)) + 1}, has {max(longest)} tokens: raise max_tokens, or "
            "cut long examples or leave them out"
        )


def _group_by_tokens(
    lengths: Sequence[tuple[int, ...]], max_tokens: int, rng: np.random.Generator
) -> list[list[int]]:
    """Group examples of similar lengths; the padded larger side of a group fits `max_tokens`."""

    def size(row: int) -> tuple[int, tuple[int, ...]]:
        return max(lengths[row]), lengths[row]

    order = rng.permutation(len(lengths)).tolist()
    groups: list[list[int]] = []
    for first in range(0, len(order), POOL):
        group: list[int] = []
        for row in sorted(order[first : first + POOL], key=size):
            # In this order the current example is the longest so far.
            if (len(group) + 1) * max(lengths[row]) > max_tokens:
                groups.append(group)
                group = []
            group.append(row)
        groups.append(group)
    return groups


def _group_by_number(
    lengths: Sequence[tuple[int, ...]], batch_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """Group examples of similar lengths; the groups of a pool differ in size by one at most."""
    groups: list[list[int]] = []
    for pool in np.array_split(rng.permutation(len(lengths)), math.ceil(len(lengths) / POOL)):
        rows = sorted(pool.tolist(), key=lambda row: (max(lengths[row]), lengths[row]))
        # Full groups and a small last one would give the longest examples more weight.
        parts = np.array_split(rows, math.ceil(len(rows) / batch_size))
        groups += [part.tolist() for part in parts]
    return groups

"""Texts that are read on demand; each training process reads its share.

A stream of `datasets` consists of shards, mostly files. Each shard is read in order by one process
and cut into blocks independently, so the places in the shards are all that is needed to resume,
with the same or another number of processes.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from qkv.data.pretraining import TokenBatch, collate_causal
from qkv.errors import ConfigError, DataError

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Place:
    """The place at which to resume reading a shard.

    Args:
        epoch: number of times that it was read to its end.
        blocks: number of blocks taken since.
        document: number of the document where the next block begins.
        token: index of the token in it; 0 is the token that ends the previous document.
    """

    epoch: int = 0
    blocks: int = 0
    document: int = 0
    token: int = 0


def text_shards(stream: Any, *, column: str = "text") -> list[Iterable[str]]:
    """Divide a stream into the texts of its shards.

        stream = datasets.load_dataset("parquet", data_files="*.parquet", streaming=True)["train"]
        shards = text_shards(stream)

    Args:
        stream: a `datasets.IterableDataset`.
        column: its column with the texts.

    Returns:
        The texts of each shard; they can be read several times.

    Raises:
        DataError: while a shard is read, if an example has no such text.
    """
    n = stream.num_shards
    return [_Texts(stream.shard(num_shards=n, index=i), i, column) for i in range(n)]


@dataclass(frozen=True)
class _Texts:
    """The texts of one shard; can be read several times."""

    shard: Iterable[Mapping[str, Any]]
    number: int
    column: str

    def __iter__(self) -> Iterator[str]:
        for i, example in enumerate(self.shard):
            text = example.get(self.column)
            if not isinstance(text, str):
                raise DataError(
                    f"example {i} of shard {self.number} has {text!r} as its {self.column}; "
                    f"expected a text (its columns are {', '.join(example)})"
                )
            yield text


class StreamedBatches:
    """Batches for next-token prediction from shards of texts, and the places in those shards.

    Documents are joined, with `stop` before, between and after them, and each token of a shard
    after the first is a target once per epoch, regardless of the number of processes and of
    interruptions. The next block comes from the shard with the fewest blocks taken.

        StreamedBatches(shards, encode, length=128, stop=0, batch_size=32, rank=rank(), n_ranks=n)

    Args:
        shards: texts, the same in each epoch; the processes take them in turn.
        encode: maps a text to its token ids.
        length: tokens per block.
        stop: id that ends a document.
        batch_size: blocks per batch, over all processes.
        epochs: how often each shard is read; None never ends.
        rank: number of this process.
        n_ranks: number of processes.

    Raises:
        ConfigError: there are fewer shards than processes, the batch cannot be divided among
            them, a number is below 1, or the rank is not one of the processes.
    """

    def __init__(
        self,
        shards: Sequence[Iterable[str]],
        encode: Encode,
        *,
        length: int,
        stop: int,
        batch_size: int,
        epochs: int | None = 1,
        rank: int = 0,
        n_ranks: int = 1,
    ):
        if not 0 <= rank < n_ranks:
            raise ConfigError(
                f"rank = {rank} of n_ranks = {n_ranks}; expected a rank from 0 to n_ranks - 1"
            )
        if epochs is not None and epochs < 1:
            raise ConfigError(f"epochs = {epochs}; expected at least 1, or None to never end")
        if len(shards) < n_ranks:
            raise ConfigError(
                f"{len(shards)} shards for {n_ranks} processes; expected at least as many, of "
                "about equal size: divide the files, or start fewer processes"
            )
        if length < 1 or batch_size < 1 or batch_size % n_ranks:
            raise ConfigError(
                f"length = {length} and batch_size = {batch_size} with {n_ranks} processes; "
                "expected numbers of at least 1, and a multiple of the processes"
            )
        self.shards, self.encode, self.length, self.stop = shards, encode, length, stop
        self.epochs, self.rows = epochs, batch_size // n_ranks
        self._own = range(rank, len(shards), n_ranks)
        self.seek({})

    @property
    def position(self) -> dict[str, list[int]]:
        """The places in this process's shards, by shard number."""
        places = {str(number): self._places[number] for number in self._own}
        return {number: list(vars(place).values()) for number, place in places.items()}

    def seek(self, position: Mapping[str, Sequence[int]]) -> None:
        """Resume from the places of all processes; shards without a place are read from the start.

        Raises:
            DataError: the position has shards that do not exist, or a place is not four numbers.
        """
        names = {str(number) for number in range(len(self.shards))}
        if unknown := [name for name in position if name not in names]:
            raise DataError(
                f"the position has a shard {unknown[0]}, but there are {len(self.shards)}; "
                "expected the same shards (were files removed since it was saved?)"
            )
        for name, place in position.items():
            if len(place) != len(fields(Place)) or min(place) < 0:
                raise DataError(
                    f"the position in shard {name} is {list(place)}; expected its epoch, blocks, "
                    "document and token, each at least 0"
                )
        self._places = {i: Place(*position.get(str(i), ())) for i in self._own}
        self._blocks = {i: self._read(i, place) for i, place in self._places.items()}

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        blocks, empty = list[list[int]](), set[int]()
        while len(blocks) < self.rows and self._blocks:
            number = min(self._blocks, key=self._turn)
            block = next(self._blocks[number], None)
            if block is None:
                del self._blocks[number]
            elif block:
                blocks.append(block)
            else:
                empty.add(number)
                if self.epochs is None and len(empty) == len(self._blocks):
                    raise DataError(
                        f"the shards {sorted(empty)} of this process have no tokens; expected "
                        "texts (with epochs = None they would be read forever)"
                    )
        if not blocks:
            raise StopIteration
        return collate_causal(blocks, pad=self.stop)

    def _turn(self, number: int) -> tuple[int, int, int]:
        place = self._places[number]
        return place.epoch, place.blocks, number

    def _read(self, number: int, place: Place) -> Iterator[list[int]]:
        """Cut a shard into blocks, each with the token after it; note the place after each.

        An epoch of a shard without tokens is an empty block.
        """
        while self.epochs is None or place.epoch < self.epochs:
            joined = _Joined(self._pieces(number, place.document), place)
            while len(block := joined.take(self.length)) > 1:
                self._places[number] = Place(
                    place.epoch, self._places[number].blocks + 1, joined.document, joined.token
                )
                yield block
            is_empty = self._places[number] == Place(place.epoch)
            place = self._places[number] = Place(place.epoch + 1)
            if is_empty:
                yield []  # the others have their turn

    def _pieces(self, number: int, document: int) -> Iterator[list[int]]:
        """Yield each document after the token that ends the one before, and a last such token."""
        texts = iter(self.shards[number])
        passed = sum(1 for _ in itertools.islice(texts, document))
        if passed < document - 1:  # the end of a shard counts as one
            raise DataError(
                f"the position in shard {number} is in document {document}, but it has {passed}; "
                "expected the same shards (was a file shortened since it was saved?)"
            )
        for text in texts:
            yield [self.stop, *self.encode(text)]
        yield [self.stop]


class _Joined:
    """Pieces joined into one sequence of blocks; keeps the place where the next block begins."""

    def __init__(self, pieces: Iterator[list[int]], place: Place):
        self.pieces, self.document, self.token = pieces, place.document, place.token
        self.held: deque[list[int]] = deque()

    def take(self, length: int) -> list[int]:
        """Return the next tokens and one more, which begins the next block; fewer at the end."""
        n_held = sum(map(len, self.held)) - self.token
        for piece in self.pieces if n_held <= length else ():
            self.held.append(piece)
            n_held += len(piece)
            if n_held > length:
                break
        block: list[int] = []
        for i, piece in enumerate(self.held):
            start = 0 if i else self.token
            block += piece[start : start + length + 1 - len(block)]
        self.token += length
        while self.held and self.token >= len(self.held[0]):
            self.token -= len(self.held.popleft())
            self.document += 1
        return block

"""What a recipe says of its texts and summaries: where they are, and which are held out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from qkv.data.batches import Batches, Movable, group_by_tokens, pad_sequences
from qkv.data.parts import hold_out_groups
from qkv.data.summaries import SETS, Summarized, summary_set
from qkv.data.tables import read_table
from qkv.tasks.sources import NamedSets, checksum, limited

NAMED = NamedSets(SETS)
COLUMNS = {"text": "text", "summary": "summary"}


class SummaryParts(NamedTuple):
    """Texts with summaries by what they are for.

    Args:
        train: to learn from.
        validation: by which the best weights and the length penalty are chosen.
        test: scored once, at the end; may be none.
    """

    train: Sequence[Summarized]
    validation: Sequence[Summarized]
    test: Sequence[Summarized]

    @property
    def checksum(self) -> str:
        """Tells whether these are the texts of an earlier run."""
        return checksum(self)


@dataclass(frozen=True, kw_only=True)
class Summaries:
    """What to learn from: files, or sets that are known by name.

    Args:
        train: a table with a column each for texts and summaries; a named set, such as docstrings;
            one part of it, as aeslc:train; or a data set of the Hub.
        validation: likewise; the named set's own part, else held out from the training texts.
        test: likewise; the named set's own part, else there is none.
        text: the column of the texts.
        summary: the column of the summaries.
        validation_share: that is held out.
        limit: learn from so many texts only.
        seed: of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: numbers out of range, or two parts from one source.
    """

    train: str = "docstrings"
    validation: str | None = None
    test: str | None = None
    text: str = COLUMNS["text"]
    summary: str = COLUMNS["summary"]
    validation_share: float = 0.1
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        NAMED.check(self, "texts")

    def parts(self) -> SummaryParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: texts cannot be read.
        """
        train = self._read(self.train, "train")
        test = self.test or NAMED.own(self.train, "test")
        validation = self.validation or NAMED.own(self.train, "validation")
        if validation is None:
            train, held_out = hold_out_groups(
                train, [one.text for one in train], self.validation_share
            )
        else:
            held_out = self._read(validation, "validation")
        train = limited(train, self.limit, self.seed)
        return SummaryParts(train, held_out, self._read(test, "test") if test else [])

    def _read(self, source: str, part: str) -> list[Summarized]:
        columns = {name: getattr(self, name) for name in COLUMNS}
        return read_summaries(source, part, columns=columns, data_dir=self.data_dir)


def read_summaries(
    data: str,
    split: str,
    *,
    columns: dict[str, str] = COLUMNS,
    data_dir: Path | None = None,
    broken: list[str] | None = None,
) -> list[Summarized]:
    """Read a table, a data set of the Hub, or a part of a named set.

    Args:
        data: such as "my.csv", "owner/name", "aeslc" or "aeslc:validation".
        split: of a named set, where `data` does not say which.
        columns: names of the table's columns for text and summary.
        data_dir: folder of the named sets.
        broken: takes the problems of broken rows of a table, which are left out then, not raised.

    Raises:
        DataError: the texts cannot be read.
    """
    if NAMED.has(data):
        return summary_set(*NAMED.split(data, split), data_dir)
    rows = read_table(data, columns, broken=broken)
    return [Summarized(row.fields["text"], (row.fields["summary"],)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class SummaryBatch(Movable):
    """What a frozen encoder said of texts, and their summaries; masks: True = a real token.

    Args:
        features: of the encoder.
        source: ids of the text.
        source_mask: of the text.
        target_input: [start, y1, ..., yn], what the decoder reads.
        target: [y1, ..., yn, stop], what it should answer.
        target_mask: of both.
        n_targets: real target tokens, counted on the host.
    """

    features: Float[Tensor, "batch source width"]
    source: Int64[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_input: Int64[Tensor, "batch target"]
    target: Int64[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"]
    n_targets: int


def summary_batches(
    features: Sequence[Float[Tensor, "_ width"]],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    pad: int,
    start: int,
    max_tokens: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[SummaryBatch]:
    """Batches of texts of similar length, each text once an epoch.

    Args:
        features: of each text's tokens.
        sources: ids of the texts.
        targets: ids of the summaries, with `stop` at the end.
        pad: id that fills short rows.
        start: id that the decoder reads first.
        max_tokens: the most positions of a batch's texts, padding included.
        seed: of the shuffling.
        epochs: which epochs to go through.
    """
    lengths = [(len(source),) for source in sources]

    def plan(epoch: int) -> list[list[int]]:
        return group_by_tokens(lengths, max_tokens, np.random.default_rng((seed, epoch)))

    def make(rows: list[int], _: np.random.Generator) -> SummaryBatch:
        source, source_mask = pad_sequences([sources[row] for row in rows], pad)
        target, target_mask = pad_sequences([targets[row] for row in rows], pad)
        begun, _ = pad_sequences([[start, *targets[row][:-1]] for row in rows], pad)
        padded = torch.nn.utils.rnn.pad_sequence([features[row] for row in rows], batch_first=True)
        return SummaryBatch(
            features=padded.float(),
            source=source,
            source_mask=source_mask,
            target_input=begun,
            target=target,
            target_mask=target_mask,
            n_targets=int(target_mask.sum()),
        )

    return Batches(epochs, plan, make, seed=seed)

"""What a recipe says of its texts and summaries: where they are, and which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.parts import hold_out_groups
from qkv.data.sets import load_set, named_sets
from qkv.data.summaries import Summarized
from qkv.tasks.sources import NamedSets, checksum, limited, read_rows

NAMED = NamedSets({name: one.splits for name, one in named_sets("summarize").items()})
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
        return list(load_set("summarize", *NAMED.split(data, split), data_dir))
    rows = read_rows(data, columns, broken)
    return [Summarized(row.fields["text"], (row.fields["summary"],)) for row in rows]

"""What a language model's recipe says of its texts: where they are, and which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.parts import hold_out_groups
from qkv.data.sets import load_set, named_sets
from qkv.data.text import decode, read_content
from qkv.errors import DataError
from qkv.tasks.sources import NamedSets, checksum, limited, read_rows

NAMED = NamedSets({name: one.splits for name, one in named_sets("generate").items()})


class CorpusParts(NamedTuple):
    """Texts by what they are for.

    Args:
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str]

    @property
    def checksum(self) -> str:
        """Tells whether these are the texts of an earlier run."""
        return checksum(self)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What to learn to write: files, or sets that are known by name.

    Args:
        train: a .txt file, which is one text; a .csv, .tsv, .jsonl or .parquet file, of which each
            row is one; or a named set: tinyshakespeare, names, or docstrings: of the functions of
            Python's library and of scientific packages, the first line and the docstring's.
        validation: likewise; a named set's own part, else held out from the training texts: of one
            text its end.
        test: likewise; a named set's own part, else there is none.
        column: of the texts, in a table.
        validation_share: that is held out.
        limit: learn from so many texts only.
        seed: of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: numbers out of range, or two parts from one source.
    """

    train: str = "tinyshakespeare"
    validation: str | None = None
    test: str | None = None
    column: str = "text"
    validation_share: float = 0.1
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        NAMED.check(self, "texts")

    def parts(self) -> CorpusParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: texts cannot be read, or there are too few to hold some out.
        """
        train = self._read(self.train, "train")
        test = self.test or NAMED.own(self.train, "test")
        if name := self.validation or NAMED.own(self.train, "validation"):
            validation = self._read(name, "validation")
        elif len(train) == 1:
            end = round(len(train[0]) * (1 - self.validation_share))
            train, validation = [train[0][:end]], [train[0][end:]]
        else:
            train, validation = hold_out_groups(train, train, self.validation_share)
        train = limited(train, self.limit, self.seed)
        return CorpusParts(train, validation, self._read(test, "test") if test else [])

    def _read(self, source: str, part: str) -> list[str]:
        return read_corpus(source, part, column=self.column, data_dir=self.data_dir)


def read_corpus(
    source: str,
    part: str,
    *,
    column: str = "text",
    data_dir: Path | None = None,
    broken: list[str] | None = None,
) -> list[str]:
    """Read the texts of a file, or of a part of a named set; empty ones are left out.

    Args:
        source: such as "mine.txt", "mine.csv", "names" or "names:test".
        part: of a named set, where the source does not say which.
        column: of a table.
        data_dir: folder of the named sets.
        broken: takes the problems of broken rows of a table, which are left out then, not raised.

    Raises:
        DataError: the texts cannot be read, or there are none.
    """
    if NAMED.has(source):
        texts = list(load_set("generate", *NAMED.split(source, part), data_dir))
    elif Path(source).suffix == ".txt":
        texts = [decode(read_content(Path(source)), source)]
    elif Path(source).suffix:
        rows = read_rows(Path(source), {"text": column}, broken)
        texts = [row.fields["text"] for row in rows]
    else:
        raise DataError(
            f"{source!r} is no file (.txt, or a table) and no named set ({', '.join(NAMED.parts)})"
        )
    if not (texts := [text for text in texts if text.strip()]):
        raise DataError(f"{source} has no text: expected at least one")
    return texts

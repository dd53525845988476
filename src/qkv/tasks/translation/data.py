"""What a recipe says of its sentences and translations: where they are, which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.parts import hold_out_groups
from qkv.data.sets import load_set, named_sets
from qkv.data.text import read_parallel
from qkv.errors import ConfigError, DataError
from qkv.tasks.sources import NamedSets, checksum, limited, read_rows

TextPair = tuple[str, str]  # source, target
NAMED = NamedSets({name: one.splits for name, one in named_sets("translate").items()})


class PairParts(NamedTuple):
    """Sentences with their translations, by what they are for.

    Args:
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    train: Sequence[TextPair]
    validation: Sequence[TextPair]
    test: Sequence[TextPair]

    @property
    def checksum(self) -> str:
        """Tells whether these are the sentences of an earlier run."""
        return checksum(self)


@dataclass(frozen=True, kw_only=True)
class Translations:
    """What to learn from: files, or sets that are known by name.

    Args:
        train: a .csv, .tsv, .jsonl or .parquet file; two files of one sentence a line, as
            "my.en,my.de"; a named set (multi30k, tatoeba) or a part of it, as
            multi30k:train; or a data set of the Hub.
        validation: likewise; a named set's own part, else split off from the training sentences.
        test: likewise; a named set's own part, else there is none.
        source: the language to translate from; in a table, the name of its column.
        target: the language to translate into, likewise.
        validation_share: of the different sources, that is split off.
        validation_limit: score on at most this many of the validation sentences, evenly chosen,
            during the training and after it; on all if null.
        lowercase: read everything in lower case, and write so.
        vocab_size: pieces of words, for both languages together.
        max_length: tokens of a sentence and of its translation: longer ones are not learned from,
            and a longer text is split or cut before it is translated.
        limit: learn from so many pairs only.
        seed: of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: numbers out of range, or two parts from one source.
    """

    train: str = "tatoeba"
    validation: str | None = None
    test: str | None = None
    source: str = "en"
    target: str = "de"
    validation_share: float = 0.02
    validation_limit: int | None = None
    lowercase: bool = False
    vocab_size: int = 8_000
    max_length: int = 100
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no sentence has to be read for."""
        for name in ("validation_limit", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} = {value}; expected at least 1")
        NAMED.check(self, "sentences")

    def parts(self) -> PairParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: sentences cannot be read.
        """
        train = self._read(self.train, "train")
        test = self.test or NAMED.own(self.train, "test")
        validation = self.validation or NAMED.own(self.train, "validation")
        if validation is None:
            keys = [source for source, _ in train]
            train, held_out = hold_out_groups(train, keys, self.validation_share)
        else:
            held_out = self._read(validation, "validation")
        train = limited(train, self.limit, self.seed)
        return PairParts(train, held_out, self._read(test, "test") if test else [])

    def _read(self, source: str, part: str) -> list[TextPair]:
        names = {"source": self.source, "target": self.target, "data_dir": self.data_dir}
        return read_translations(source, part, **names)


def read_translations(
    data: str,
    split: str,
    *,
    source: str = "en",
    target: str = "de",
    data_dir: Path | None = None,
    broken: list[str] | None = None,
) -> list[TextPair]:
    """Read a table, two aligned files, a data set of the Hub, or a part of a named set.

    Args:
        data: such as "my.csv", "my.en,my.de", "owner/name", "multi30k" or "multi30k:validation".
        split: the part of a named set, where `data` does not say which.
        source: the language, or the column, of the sentences.
        target: the language, or the column, of their translations.
        data_dir: folder of the named sets.
        broken: takes the problems of broken rows of a table, which are left out then, not raised.

    Raises:
        DataError: the sentences cannot be read, or one of them is empty.
    """
    if NAMED.has(data):
        name, part = NAMED.split(data, split)
        columns = {"source": source, "target": target}
        return list(load_set("translate", name, part, data_dir, columns))
    if "," in data and not Path(data).exists():
        return _aligned(data)
    rows = read_rows(data, {"source": source, "target": target}, broken)
    return [(row.fields["source"], row.fields["target"]) for row in rows]


def _aligned(names: str) -> list[TextPair]:
    paths = names.split(",")
    if len(paths) != 2:
        raise DataError(
            f"{names!r} names {len(paths)} files; expected two of one sentence a line, such as "
            "my.en,my.de"
        )
    pairs = read_parallel(*paths)
    for line, pair in enumerate(pairs, start=1):
        for path, text in zip(paths, pair, strict=True):
            if not text.strip():
                raise DataError(
                    f"{path}, line {line}, is empty: expected a sentence; leave the line out of "
                    "both files"
                )
    return pairs


def evenly(pairs: Sequence[TextPair], limit: int | None) -> Sequence[TextPair]:
    """At most so many pairs, the same distance apart: sets are often sorted by length."""
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i * len(pairs) // limit] for i in range(limit)]

"""What a recipe says of its texts: where they are, and which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.labels import Labels, PairExample, TextExample, hold_out_stratified, read_examples
from qkv.data.sets import load_set, named_sets
from qkv.errors import DataError
from qkv.tasks.sources import NamedSets, checksum, limited

Example = TextExample | PairExample
NAMED = NamedSets({name: one.splits for name, one in named_sets("classify").items()})


class TextParts(NamedTuple):
    """Texts with their classes, by what they are for.

    Args:
        labels: names of the classes, which the training texts have.
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    labels: Labels
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]

    @property
    def checksum(self) -> str:
        """Tells whether these are the texts of an earlier run."""
        return checksum([self.labels.names, self.train, self.validation, self.test])


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What to learn from: files, or sets that are known by name.

    Args:
        train: a .csv, .tsv, .jsonl or .parquet file; a named set, such as reviews; one part of it,
            as reviews:train; or a data set of the Hub.
        validation: likewise; a named set's own part, else split off from the training texts.
        test: likewise; a named set's own part, else there is none.
        text: the column of the texts.
        label: the column of the labels.
        second: the column of the second texts, where the classes are of pairs.
        validation_share: that is split off, the same of each class.
        max_length: tokens of a text, of which the rest is cut off.
        limit: maximum number of training texts.
        seed: of the split and of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: numbers out of range, or two parts from one source.
    """

    train: str = "reviews"
    validation: str | None = None
    test: str | None = None
    text: str = "text"
    label: str = "label"
    second: str | None = None
    validation_share: float = 0.1
    max_length: int = 128
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        NAMED.check(self, "texts")

    def parts(self) -> TextParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: texts cannot be read, or their labels do not fit together.
        """
        train = self._read(self.train, "train")
        labels = Labels.of(example.label for example in train)
        test_name = self.test or NAMED.own(self.train, "test")
        test = self._read(test_name, "test", labels) if test_name else []
        name = self.validation or NAMED.own(self.train, "validation")
        # A set whose published validation part serves as the test still needs one to choose by.
        if name is None or name == test_name:
            train, validation = hold_out_stratified(train, self.validation_share, seed=self.seed)
        else:
            validation = self._read(name, "validation", labels)
        return TextParts(labels, self._limited(train, labels), validation, test)

    def _read(self, source: str, part: str, known: Labels | None = None) -> list[Example]:
        columns = {"text": self.text, "label": self.label, "second": self.second}
        return read_texts(source, part, known=known, data_dir=self.data_dir, **columns)

    def _limited(self, train: Sequence[Example], labels: Labels) -> Sequence[Example]:
        kept = limited(train, self.limit, self.seed)
        if missing := set(labels.names) - {example.label for example in kept}:
            raise DataError(
                f"data.limit = {self.limit} leaves no text of {', '.join(sorted(missing))}; "
                "expected at least one of each class: raise it"
            )
        return kept


def read_texts(
    source: str,
    part: str,
    *,
    text: str = "text",
    label: str = "label",
    second: str | None = None,
    data_dir: Path | None = None,
    known: Labels | None = None,
    broken: list[str] | None = None,
) -> list[Example]:
    """Read a table, a data set of the Hub, or a part of a named set.

    Args:
        source: such as "my.csv", "owner/name", "reviews" or "reviews:test".
        part: of a named set, where the source does not say which.
        text: the column of the texts.
        label: the column of the labels.
        second: the column of the second texts, where the classes are of pairs.
        data_dir: folder of the named sets.
        known: the classes of training, if the texts are to evaluate by.
        broken: takes the problems of broken rows of a table, which are left out then, not raised.

    Raises:
        DataError: the texts cannot be read, or one has a label that is not among the known.
    """
    if not NAMED.has(source):
        columns = {"text": text, "label": label, "second": second}
        return read_examples(source, **columns, known=known, problems=broken)
    examples = list(load_set("classify", *NAMED.split(source, part), data_dir))
    if known is not None:
        for row, example in enumerate(examples, start=1):
            known.number(example.label, f"{NAMED.full_name(source, part)}, text {row}")
    return examples

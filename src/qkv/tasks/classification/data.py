"""What a recipe says of its texts: where they are, and which are held out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qkv.data.labels import Labels, TextExample, read_examples, split_off
from qkv.data.named import SETS, classification_set, parts_of
from qkv.errors import ConfigError, DataError


class TextParts(NamedTuple):
    """Texts with their classes, by what they are for.

    Args:
        labels: names of the classes, which the training texts have.
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    labels: Labels
    train: Sequence[TextExample]
    validation: Sequence[TextExample]
    test: Sequence[TextExample]

    @property
    def checksum(self) -> str:
        """Tells whether these are the texts of an earlier run."""
        content = json.dumps([self.labels.names, self.train, self.validation, self.test])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


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
        validation_share: that is split off, the same of each class.
        max_length: tokens of a text, of which the rest is cut off.
        limit: learn from so many texts only.
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
    validation_share: float = 0.1
    max_length: int = 128
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit = {self.limit}; expected at least 1 text, or null")
        if not 0 < self.validation_share < 1:
            raise ConfigError(
                f"data.validation_share = {self.validation_share}; expected between 0 and 1, such "
                "as 0.1"
            )
        given = {part: _full_name(getattr(self, part), part) for part in PARTS}
        for one, other in (PARTS[:2], PARTS[1:], PARTS[::2]):
            if given[one] == given[other] is not None:
                raise ConfigError(
                    f"data.{one} and data.{other} are both {getattr(self, one)}; expected other "
                    "texts, or the scores say nothing of new ones (without data.validation a share "
                    "of the training texts is held out)"
                )

    def parts(self) -> TextParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: texts cannot be read, or their labels do not fit together.
        """
        train = self._read(self.train, "train")
        labels = Labels.of(example.label for example in train)
        own = parts_of(self.train) if _is_set(self.train) and self.train in SETS else ()
        test_name = self.test or (f"{self.train}:test" if "test" in own else None)
        test = self._read(test_name, "test", labels) if test_name else []
        name = self.validation or (f"{self.train}:validation" if "validation" in own else None)
        # A set whose published validation part serves as the test still needs one to choose by.
        if name is None or _full_name(name, "validation") == _full_name(test_name, "test"):
            train, validation = split_off(train, self.validation_share, seed=self.seed)
        else:
            validation = self._read(name, "validation", labels)
        return TextParts(labels, self._limited(train, labels), validation, test)

    def _read(self, source: str, part: str, known: Labels | None = None) -> list[TextExample]:
        columns = {"text": self.text, "label": self.label, "data_dir": self.data_dir}
        return read_texts(source, part, known=known, **columns)

    def _limited(self, train: Sequence[TextExample], labels: Labels) -> Sequence[TextExample]:
        if self.limit is None or self.limit >= len(train):
            return train
        chosen = np.random.default_rng(self.seed).permutation(len(train))[: self.limit]
        kept = [train[i] for i in sorted(chosen.tolist())]
        if missing := set(labels.names) - {example.label for example in kept}:
            raise DataError(
                f"data.limit = {self.limit} leaves no text of {', '.join(sorted(missing))}; "
                "expected at least one of each class: raise it"
            )
        return kept


PARTS = ("train", "validation", "test")


def read_texts(
    source: str,
    part: str,
    *,
    text: str = "text",
    label: str = "label",
    data_dir: Path | None = None,
    known: Labels | None = None,
) -> list[TextExample]:
    """Read a table, a data set of the Hub, or a part of a named set.

    Args:
        source: such as "my.csv", "owner/name", "reviews" or "reviews:test".
        part: of a named set, where the source does not say which.
        text: the column of the texts.
        label: the column of the labels.
        data_dir: folder of the named sets.
        known: the classes of training, if the texts are to evaluate by.

    Raises:
        DataError: the texts cannot be read, or one has a label that is not among the known.
    """
    if not _is_set(source):
        return read_examples(source, text=text, label=label, known=known)
    name, _, said = source.partition(":")
    examples = classification_set(name, said or part, data_dir)
    if known is not None:
        for row, example in enumerate(examples, start=1):
            known.number(example.label, f"{name}:{said or part}, text {row}")
    return examples


def _is_set(source: str) -> bool:
    """Whether this is a named set or a part of one; a file of this name comes first."""
    return source.partition(":")[0] in SETS and not Path(source).is_file()


def _full_name(source: str | None, part: str) -> str | None:
    """A source with its part, if it is a named set."""
    return f"{source}:{part}" if source in SETS and _is_set(source) else source

"""Labeled texts: reading, class numbers, remarks on the labels, and a stratified split."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from qkv.data.rows import Row, good_rows
from qkv.data.tables import DEFAULT, TableLayout, read_table
from qkv.errors import ConfigError, DataError
from qkv.json_fields import quoted


class TextExample(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


class PairExample(NamedTuple):
    """Two texts, such as a question and a sentence, and the name of their class."""

    text: str
    label: str
    second: str


def seconds_of(examples: Sequence[TextExample | PairExample]) -> list[str] | None:
    """Return the second texts of pairs; None for single texts.

    Raises:
        DataError: some examples are pairs, and some are not.
    """
    seconds = [one.second for one in examples if isinstance(one, PairExample)]
    if seconds and len(seconds) < len(examples):
        raise DataError(
            f"{len(seconds)} of {len(examples)} examples are pairs of texts; expected all, or none"
        )
    return seconds or None


@runtime_checkable
class Labelled(Protocol):
    """An example with a text and a label, as `hold_out_stratified` needs."""

    @property
    def text(self) -> str:
        """The text that is classified."""
        ...

    @property
    def label(self) -> str:
        """The name of the class."""
        ...


Example = TypeVar("Example", bound=Labelled)
UNKNOWN = "unknown label"


class Labels:
    """The names of the classes; the number of a class is the index of its name.

    Args:
        names: names in the order of the numbers.

    Raises:
        DataError: fewer than two names, or a name that occurs twice.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}
        # The names that transformers gives to classes without names; data has their numbers.
        if self.names == tuple(f"LABEL_{number}" for number in range(len(self.names))):
            self._also = {str(number): number for number in range(len(self.names))}
        else:
            self._also = dict[str, int]()
        if len(self._numbers) < 2:
            raise DataError(
                f"{len(self._numbers)} classes: {_some(self._numbers)}; expected two or more (is "
                "this the column of the labels, or only the beginning of a sorted file?)"
            )
        if len(self._numbers) < len(self.names):
            raise DataError(f"classes {_some(self.names)}; expected each name once")

    @classmethod
    def of(cls, labels: Iterable[str]) -> "Labels":
        """Collect the names: whole numbers sorted by value, other names by code point.

        Raises:
            DataError: there are fewer than two different names.
        """
        names = sorted(set(labels))
        if all(name.isascii() and name.isdigit() for name in names):
            names.sort(key=int)
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Labels({list(self.names)})"

    def number(self, label: str, where: str = "") -> int:
        """Return the number of a class; `where` is the location of the label, for the error.

        For the default names LABEL_0, LABEL_1, ... the number alone is accepted, too.

        Raises:
            DataError: training had no such class.
        """
        number = self._numbers.get(label, self._also.get(label))
        if number is None:
            raise DataError(
                f"{where and where + ': '}the label {quoted(label)} was never seen in training; "
                f"known are {_some(self.names)} (another spelling, or other data?)"
            )
        return number


def read_examples(
    path: str | os.PathLike[str],
    *,
    text: str | int = "text",
    label: str | int = "label",
    second: str | int | None = None,
    layout: TableLayout = DEFAULT,
    known: Labels | None = None,
    problems: list[str] | None = None,
) -> list[TextExample] | list[PairExample]:
    """Read texts, or pairs of texts, and their labels from a table; see `read_table`.

    Args:
        path: path of the table, or a data set's name on the Hub.
        text: the column of the texts.
        label: the column of the labels.
        second: the column of the second texts, for pairs; None for single texts.
        layout: file format options.
        known: the classes of training, for a table to evaluate on.
        problems: receives the problems of bad rows, which are left out; if None, they are an error.

    Raises:
        DataError: the table cannot be read, or has labels that are not in `known`.
    """
    columns = {"text": text, "label": label} | ({} if second is None else {"second": second})
    rows = read_table(path, columns, layout, keep_bad_rows=True)
    if known is not None:
        checked = [_with_known_label(path, row, known) for row in rows]
        unknown = any(row.kind == UNKNOWN for row in checked)
        rows = good_rows(path, checked) if unknown else checked
    rows = good_rows(path, rows, problems)
    if second is None:
        return [TextExample(**row.fields) for row in rows]
    return [PairExample(**row.fields) for row in rows]


def _with_known_label(path: str | os.PathLike[str], row: Row, known: Labels) -> Row:
    """Add the problem of a label that training did not have."""
    if row.problem:
        return row
    try:
        known.number(row.fields["label"], f"{path}, line {row.line}")
    except DataError as error:
        return Row(row.line, row.fields, str(error), UNKNOWN)
    return row


def label_remarks(labels: Sequence[str]) -> list[str]:
    """Describe what looks like a mistake: classes with one example, and near-equal labels."""
    counts = Counter(labels)
    remarks = []
    if single := [label for label, count in counts.items() if count == 1]:
        remarks.append(
            f"{len(single):,} of {len(counts):,} classes have a single example: {_some(single)} "
            "(misspelled labels, or not the column of the labels?)"
        )
    return remarks + _near_equal(counts)


def _near_equal(counts: Mapping[str, int]) -> list[str]:
    """Describe labels that differ only in case or white space."""
    spellings: dict[str, list[str]] = {}
    for label in counts:
        spellings.setdefault("".join(label.split()).casefold(), []).append(label)
    listed = [
        ", ".join(f"{quoted(label, 40)} ({counts[label]:,})" for label in alike)
        for alike in spellings.values()
        if len(alike) > 1
    ]
    differ = "labels differ only in case or white space"
    return [f"{differ}: {names}; they are different classes" for names in listed]


def hold_out_stratified(
    examples: Sequence[Example], share: float, *, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out a fraction of each class; return the rest and the held-out examples, in order.

    Every class is in both splits, so a small one gives more than its fraction. Equal texts are kept
    in one split, so that no test text was seen in training: the fraction is of the distinct texts,
    and a text with several labels counts for its first one.

    Args:
        examples: texts with labels.
        share: fraction to hold out, between 0 and 1.
        seed: seed of the random choice, which depends only on it and the examples.

    Raises:
        ConfigError: a fraction that is not between 0 and 1.
        DataError: there are no examples, or a class has a single text.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share = {share} to hold out; expected between 0 and 1, such as 0.1")
    if not examples:
        raise DataError("no examples to hold some out from: expected two of each class")
    first_label = {example.text: example.label for example in reversed(examples)}
    texts: dict[str, list[str]] = {example.label: [] for example in examples}
    for text in dict.fromkeys(example.text for example in examples):
        texts[first_label[text]].append(text)
    lonely = [label for label, of_class in texts.items() if len(of_class) < 2]
    if lonely:
        near = _near_equal({label: len(of_class) for label, of_class in texts.items()})
        raise DataError(
            f"{len(lonely)} of {len(texts)} classes have a single text: {_some(lonely)}; expected "
            "two or more to hold one out (is this the column of the labels? otherwise add texts, "
            "leave the class out, or name a file for validation)" + "".join(f"; {x}" for x in near)
        )
    rng, held = np.random.default_rng(seed), set[str]()
    for label in sorted(texts):
        n_texts = len(texts[label])
        n_held = min(max(1, round(share * n_texts)), n_texts - 1)
        held.update(texts[label][i] for i in rng.permutation(n_texts)[:n_held])
    return (
        [example for example in examples if example.text not in held],
        [example for example in examples if example.text in held],
    )


def _some(names: Iterable[str], most: int = 10) -> str:
    """Names for a message."""
    names = [quoted(name, 40) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

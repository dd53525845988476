"""The data of a task: where examples come from, and how they are split."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from qkv.data.labels import hold_out_stratified
from qkv.data.parts import hold_out_groups
from qkv.data.rows import Row, good_rows, report_problems
from qkv.data.sets import NamedSet, named_sets
from qkv.data.tables import read_table
from qkv.errors import ConfigError, DataError
from qkv.tasks.task import Task

Example = TypeVar("Example")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the examples of a recipe come from.

    Args:
        train: one source or several: a table (.csv, .tsv, .jsonl, .parquet), a named data set such
            as reviews, one split of it such as reviews:train, or a data set of the Hub.
        validation: another source; default: the named set's own split, else examples that are held
            out from the training examples.
        test: another source; default: the named set's own split, else none.
        columns: the table's column for each role, such as --data.columns.text review.
        validation_fraction: fraction of the training examples that is held out.
        validation_limit: evaluate on at most this many validation examples, evenly spaced.
        limit: train on at most this many examples, drawn at random.
        on_bad_rows: fail lists the malformed rows of a table and stops; skip leaves them out.
        seed: seed for holding out and drawing examples.
        data_dir: folder of the named sets; default: the environment variable QKV_DATA.

    Raises:
        ConfigError: no training source, or a number out of range.
    """

    train: tuple[str, ...] = ()
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    validation_fraction: float = 0.1
    validation_limit: int | None = None
    limit: int | None = None
    on_bad_rows: Literal["fail", "skip"] = "fail"
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        if isinstance(self.train, str):
            object.__setattr__(self, "train", (self.train,))
        if not self.train:
            raise ConfigError("data.train is empty; expected one source of examples or several")
        for name in ("limit", "validation_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} = {value}; expected at least 1 example, or null")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(
                f"data.validation_fraction = {self.validation_fraction}; expected between 0 and 1, "
                "such as 0.1"
            )
        if self.on_bad_rows not in ("fail", "skip"):
            raise ConfigError(f"data.on_bad_rows = {self.on_bad_rows!r}; expected fail or skip")


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits(Generic[Example]):
    """The examples of each split.

    Args:
        train: examples to train on.
        validation: examples to select weights and settings.
        test: examples for the scores at the end; may be empty.
        columns: the table's column of each role, which the trained model remembers.
        remarks: remarks on the data, for the user.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Sequence[Example]]:
        return iter((self.train, self.validation, self.test))


def read_splits(task: Task[Example, Any], config: DataConfig) -> Splits[Example]:
    """Read all examples of a recipe; hold out a validation split if it has no source.

    Raises:
        ConfigError: two splits from one source, or a column that the task does not have.
        DataError: a source cannot be read, or there are too few examples.
    """
    source = Source(task, config.columns, config.data_dir, config.on_bad_rows)
    only = config.train[0] if len(config.train) == 1 else ""
    test = config.test or source.own_split(only, "test")
    validation = config.validation or source.own_split(only, "validation")
    # If a set's published validation split serves as the test split, another one is held out.
    if validation == test:
        validation = None
    _check_twice(source, config)
    train = [example for name in config.train for example in source.read(name, "train")]
    if validation is None:
        train, held_out = hold_out(task, train, config)
    else:
        held_out = source.read(validation, "validation")
    return Splits(
        train=_limited(task, train, config),
        validation=evenly(held_out, config.validation_limit),
        test=source.read(test, "test") if test else (),
        columns=source.columns,
        remarks=tuple(source.remarks),
    )


class Source(Generic[Example]):
    """Reads the examples of a task from tables, named sets, and the task's own file formats.

    Args:
        task: the task.
        columns: the table's column of some roles; the others have the task's default.
        data_dir: folder of the named sets.
        on_bad_rows: "fail" or "skip".

    Raises:
        ConfigError: a role that the task does not have.
    """

    def __init__(
        self,
        task: Task[Example, Any],
        columns: Mapping[str, str],
        data_dir: Path | None = None,
        on_bad_rows: str = "fail",
    ):
        self.task, self.data_dir, self.skip = task, data_dir, on_bad_rows == "skip"
        self.columns = name_columns(columns, task.columns)
        self.remarks: list[str] = []  # reports of malformed rows that were left out
        self._sets = named_sets(task.name)

    def read(self, source: str, split: str) -> Sequence[Any]:
        """Read a source; `split` is that of a named set, unless the source names one.

        Raises:
            DataError: the source cannot be read.
        """
        if (named_set := self._named(source)) is not None:
            name, _, own = source.partition(":")
            if (own or split) not in named_set.splits:
                raise DataError(
                    f"no split {own or split!r} of {name}; expected {', '.join(named_set.splits)}"
                )
            return named_set.read(own or split, self.data_dir, self._named_columns())
        problems: list[str] | None = [] if self.skip else None
        examples = self.task.read(source, problems)
        if examples is None:
            rows = self._rows(source)
            examples = [self._example(source, row) for row in good_rows(source, rows, problems)]
            problems = problems and [report_problems(source, rows)]
        if problems:
            self.remarks.append("left out: " + "\n".join(problems))
        return examples

    def _named_columns(self) -> dict[str, str]:
        """Return the columns without those of tables: named sets have their own defaults."""
        default = self.task.columns
        return {role: name for role, name in self.columns.items() if name != default[role]}

    def _rows(self, source: str) -> list[Row]:
        try:
            return read_table(source, self.columns, keep_bad_rows=self.skip)
        except DataError as error:
            if not self._sets or Path(source).suffix or "/" in source:
                raise
            names = ", ".join(sorted(self._sets))
            raise DataError(f"{error}; the named sets are {names}") from error

    def _example(self, source: str, row: Row) -> Example:
        try:
            return self.task.example(**row.fields)
        except DataError as error:
            raise DataError(f"{source}, line {row.line}: {error}") from error

    def own_split(self, source: str, split: str) -> str | None:
        """Return the named set's own split of this kind, if the source is a set that has one."""
        named_set = self._named(source)
        has_one = named_set is not None and ":" not in source and split in named_set.splits
        return f"{source}:{split}" if has_one else None

    def full_name(self, source: str, split: str) -> str:
        """Return the source with its split if it is a named set, else as it is."""
        is_set = self._named(source) is not None and ":" not in source
        return f"{source}:{split}" if is_set else source

    def _named(self, source: str) -> NamedSet[Any] | None:
        path = Path(source)
        comes_first = path.is_dir() if self.task.pipeline.of_images else path.is_file()
        return None if comes_first else self._sets.get(source.partition(":")[0])


def name_columns(columns: Mapping[str, str], roles: Mapping[str, str | None]) -> dict[str, str]:
    """Return the column of each role: the named one, else its default; optional roles may lack one.

    Raises:
        ConfigError: a role that the task does not have.
    """
    if unknown := sorted(set(columns) - set(roles)):
        expected = f"expected some of {', '.join(roles)}" if roles else "there are no columns"
        raise ConfigError(
            f"columns.{unknown[0]} = {columns[unknown[0]]!r}: there is no such role; {expected}"
        )
    named = {role: columns.get(role, default) for role, default in roles.items()}
    return {role: column for role, column in named.items() if column is not None}


def hold_out(
    task: Task[Example, Any], examples: Sequence[Example], config: DataConfig
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Hold out a fraction of the examples for validation; equal texts stay together.

    Raises:
        DataError: too few examples.
    """
    fraction = config.validation_fraction
    try:
        if task.hold_out is not None:
            return task.hold_out(examples, fraction)
        if task.labels is not None:
            labeled: Any = examples
            return hold_out_stratified(labeled, fraction, seed=config.seed)
        return hold_out_groups(examples, [task.group(one) for one in examples], fraction)
    except DataError as error:
        raise DataError(f"{', '.join(config.train)}: {error}") from error


def evenly(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """Return at most `limit` examples, evenly spaced: data is often sorted by length."""
    if limit is None or limit >= len(examples):
        return examples
    return [examples[i * len(examples) // limit] for i in range(limit)]


def checksum(content: Iterable[Any]) -> str:
    """Return a checksum of JSON values, to tell whether a run continues on the same data."""
    return hashlib.sha256(json.dumps(list(content)).encode()).hexdigest()[:16]


def _limited(
    task: Task[Example, Any], train: Sequence[Example], config: DataConfig
) -> Sequence[Example]:
    """Draw at most `limit` examples; they keep their order."""
    if config.limit is None or config.limit >= len(train):
        return train
    chosen = np.random.default_rng(config.seed).permutation(len(train))[: config.limit]
    kept = [train[i] for i in sorted(chosen.tolist())]
    if task.labels is not None:
        labels = task.labels
        missing = {labels(one) for one in train} - {labels(one) for one in kept}
        if missing:
            raise DataError(
                f"data.limit = {config.limit} leaves no example of {', '.join(sorted(missing))}; "
                "expected at least one of each class: raise it"
            )
    return kept


def _check_twice(source: Source[Any], config: DataConfig) -> None:
    """Raise ConfigError if two splits have the same source."""
    named = [source.full_name(name, "train") for name in config.train]
    others = (("validation", config.validation), ("test", config.test))
    named += [source.full_name(name, split) for split, name in others if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ConfigError(
            f"data names {', '.join(twice)} twice; expected another source for each split, or the "
            "scores say nothing about new examples (without data.validation a fraction of the "
            "training examples is held out)"
        )

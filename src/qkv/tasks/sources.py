"""Where the examples of a recipe come from: sets known by name, and what all tasks ask of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from qkv.data.rows import Columns, Row, good_rows
from qkv.data.tables import read_table
from qkv.errors import ConfigError

Example = TypeVar("Example")


@runtime_checkable
class Sources(Protocol):
    """A recipe's `data`: where the parts come from, and how much of them is taken."""

    @property
    def train(self) -> str | Sequence[str]: ...  # a source or several
    @property
    def validation(self) -> str | None: ...
    @property
    def test(self) -> str | None: ...
    @property
    def validation_share(self) -> float: ...
    @property
    def limit(self) -> int | None: ...


@dataclass(frozen=True)
class NamedSets:
    """The sets that a task knows by name, such as "multi30k", and by part, "multi30k:test".

    Args:
        parts: of each set.
        comes_first: tells of a path that it is read itself, though a set has the same name.
    """

    parts: Mapping[str, Sequence[str]]
    comes_first: Callable[[Path], bool] = Path.is_file

    def has(self, source: str) -> bool:
        """Whether this is one of the sets, or a part of one."""
        return source.partition(":")[0] in self.parts and not self.comes_first(Path(source))

    def split(self, source: str, part: str) -> tuple[str, str]:
        """The name of the set, and the part that the source says, or else the one given."""
        name, _, said = source.partition(":")
        return name, said or part

    def full_name(self, source: str, part: str) -> str:
        """A source with its part, if it is a set; else as it is."""
        return ":".join(self.split(source, part)) if self.has(source) else source

    def own(self, source: str, part: str) -> str | None:
        """The set's own part of this kind, where the source is a whole set that has one."""
        found = self.has(source) and part in self.parts.get(source, ())
        return f"{source}:{part}" if found else None

    def check(self, data: Sources, what: str) -> None:
        """Check of a recipe's `data` what nothing has to be read for.

        Args:
            data: of the recipe.
            what: it is about, such as "texts", for the messages.

        Raises:
            ConfigError: numbers out of range, or two parts from one source.
        """
        if data.limit is not None and data.limit < 1:
            raise ConfigError(
                f"data.limit = {data.limit}; expected at least 1 of the {what}, or null"
            )
        if not 0 < data.validation_share < 1:
            raise ConfigError(
                f"data.validation_share = {data.validation_share}; expected between 0 and 1, such "
                "as 0.1"
            )
        train = (data.train,) if isinstance(data.train, str) else data.train
        named = [self.full_name(source, "train") for source in train]
        given = (("validation", data.validation), ("test", data.test))
        named += [self.full_name(source, part) for part, source in given if source]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigError(
                f"data names {', '.join(twice)} twice; expected other {what} for each part, or the "
                "scores say nothing of new ones (without data.validation a share of the training "
                f"{what} is held out)"
            )


def read_rows(data: str | Path, columns: Columns, broken: list[str] | None) -> list[Row]:
    """Read a table; bad rows are an error, or left out, and their problems added to `broken`."""
    return good_rows(data, read_table(data, columns, keep_bad_rows=True), broken)


def limited(examples: Sequence[Example], limit: int | None, seed: int) -> Sequence[Example]:
    """At most so many of the examples, drawn at random and left in order."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:limit]
    return [examples[i] for i in sorted(chosen.tolist())]


def checksum(content: Iterable[Any]) -> str:
    """Tells whether this is the content of an earlier run; of what JSON can say."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

"""Named data sets: one module each, and the registry.

A set is a module with a tuple `SETS`, and its name in `MODULES`; see CONTRIBUTING. The files are
looked for in a data folder (`find_data`), except those that come with a package.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from qkv.errors import DataError

Examples = TypeVar("Examples", covariant=True)
Folder = str | os.PathLike[str] | None

MODULES = (
    "reviews",
    "opinions",
    "sst2",
    "emotion",
    "trec",
    "ag_news",
    "qamr",
    "squadshifts",
    "xquad",
    "multi30k",
    "tatoeba",
    "everyday",
    "aeslc",
    "dialogsum",
    "prose",
    "docstrings",
    "tinyshakespeare",
    "names",
    "digits",
    "fashion_mnist",
    "drawn_digits",
    "written_digits",
    "town_news",
    "passages",
)
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class NamedSet(Generic[Examples]):
    """A data set that is known by name.

    Args:
        name: such as "multi30k".
        task: the task whose examples it has, such as "translate".
        splits: usually "train", "validation" and "test".
        read: maps a split, the data folder and the columns to the examples; the columns "source"
            and "target" are the languages of translations, other sets ignore them.
        summary: content, source and license in one line.
    """

    name: str
    task: str
    splits: tuple[str, ...]
    read: Callable[[str, Folder, Mapping[str, str]], Examples]
    summary: str


def named_sets(task: str) -> dict[str, NamedSet[Any]]:
    """Return the sets of a task by name."""
    modules = (importlib.import_module(f"{__name__}.{module}") for module in MODULES)
    return {one.name: one for module in modules for one in module.SETS if one.task == task}


def load_set(
    task: str,
    name: str,
    split: str,
    data_dir: Folder = None,
    columns: Mapping[str, str] = NO_COLUMNS,
) -> Any:
    """Read one split of a named set: a sequence of examples.

    Args:
        task: such as "classify"; see `NamedSet`.
        name: name of the set.
        split: one of its splits.
        data_dir: folder of the data sets; by default the variable QKV_DATA.
        columns: see `NamedSet`.

    Raises:
        DataError: no such set or split, or its files are missing or broken.
    """
    sets = named_sets(task)
    if name not in sets:
        known = ", ".join(sets) or "none"
        raise DataError(f"no data set {name!r} to {task}; expected {known}")
    if split not in sets[name].splits:
        known = ", ".join(sets[name].splits)
        raise DataError(f"no split {split!r} of {name}; expected {known}")
    return sets[name].read(split, Path(data_dir) if data_dir else None, columns)

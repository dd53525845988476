"""Data sets of the Hugging Face Hub."""

from collections.abc import Callable, Mapping
from typing import Any

from qkv.data.rows import Columns, Row, check_rows, find_columns
from qkv.errors import DataError, MissingDependencyError


def read_hub(
    name: str, columns: Columns, *, split: str = "train", config: str | None = None
) -> list[Row]:
    """Read a data set of the Hub, cached or downloaded; class numbers become their names.

    Args:
        name: "owner/name", or "name" for some old sets.
        columns: role to the name of its column.
        split: such as "train", "validation" or "test".
        config: for names with several sets, such as the tasks of a benchmark.

    Returns:
        The rows; bad ones have their problem.

    Raises:
        DataError: there is no such set, split or column, or the Hub cannot be reached.
        MissingDependencyError: the package `datasets` is not installed.
    """
    table = _load(name, split, config)
    where = f"{name}, split {split}"
    found = find_columns(where, columns, table.column_names)
    picked = table.select_columns(list(set(found.values())))
    rows = map(_picker(found, table.features), picked)
    return check_rows(where, "row", enumerate(rows, start=1))


def _load(name: str, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'{name!r} is no file, and the Hub needs datasets: pip install "qkv[train]"'
        ) from error
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is no file here, and the split {split!r} of such a data set of the Hub "
            f"cannot be had: {error}"
        ) from error


def _picker(
    found: Mapping[str, str], features: Mapping[str, Any] | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function from a row to its values by role, with the names of classes."""
    names = {role: getattr((features or {}).get(at), "names", None) for role, at in found.items()}

    def value(role: str, given: Any) -> Any:
        classes = names[role]
        if classes is None or given is None:
            return given
        return classes[given] if given >= 0 else None  # -1 stands for a hidden label

    return lambda row: {role: value(role, row[column]) for role, column in found.items()}

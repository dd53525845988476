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
        columns: column name by role.
        split: such as "train", "validation" or "test".
        config: for names with several sets, such as the tasks of a benchmark.

    Returns:
        The rows; each bad row has a problem.

    Raises:
        DataError: there is no such set, split or column, or the Hub cannot be reached.
        MissingDependencyError: the package `datasets` is not installed.
    """
    table = _load(name, split, config)
    where = f"{name}, split {split}"
    present = find_columns(where, columns, table.column_names)
    picked = table.select_columns(list(set(present.values())))
    rows = map(_picker(present, table.features), picked)
    return list(check_rows(where, "row", enumerate(rows, start=1)))


def _load(name: str, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'{name!r} is not a file, and the Hub needs datasets: pip install "qkv[train]"'
        ) from error
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is not a file, and the split {split!r} of a data set of this name cannot be "
            f"loaded from the Hub: {error}"
        ) from error


def _picker(
    columns: Mapping[str, str], features: Mapping[str, Any] | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function from a row to its values by role, with the names of classes."""
    names = {role: getattr((features or {}).get(at), "names", None) for role, at in columns.items()}

    def value(role: str, cell: Any) -> Any:
        classes = names[role]
        if classes is None or cell is None:
            return cell
        return classes[cell] if cell >= 0 else None  # -1 is a hidden label

    return lambda row: {role: value(role, row[column]) for role, column in columns.items()}

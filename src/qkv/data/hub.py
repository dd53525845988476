"""Data sets of the Hugging Face Hub."""

from typing import Any

from qkv.data.rows import Columns, Row, check_rows, find_columns
from qkv.errors import DataError, MissingDependencyError


def read_hub(
    name: str, columns: Columns, *, split: str = "train", config: str | None = None
) -> list[Row]:
    """Read a data set of the Hub, from its cache or downloaded; classes get their names.

    Args:
        name: "owner/name"; of some old sets "name".
        columns: what to call a column, to its name.
        split: such as "train", "validation" or "test".
        config: for a name that holds several sets, such as the tasks of a benchmark.

    Raises:
        DataError: there is no such set, split or column, or no way to the Hub; a field is empty or
            no text.
        MissingDependencyError: the package `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'{name!r} is no file, and the Hub needs datasets: pip install "qkv[train]"'
        ) from error
    try:
        table = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is no file here, and the split {split!r} of such a data set of the Hub "
            f"cannot be had: {error}"
        ) from error
    where = f"{name}, split {split}"
    found = find_columns(where, columns, table.column_names)
    names = {role: getattr(table.features[column], "names", None) for role, column in found.items()}

    def value(role: str, given: Any) -> Any:
        if names[role] is None or given is None:
            return given
        return names[role][given] if given >= 0 else None  # -1 stands for a hidden label

    picked = table.select_columns(list(set(found.values())))
    rows = ({role: value(role, row[column]) for role, column in found.items()} for row in picked)
    return check_rows(where, "row", enumerate(rows, start=1))

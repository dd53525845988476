"""Data sets of the Hugging Face Hub."""

from collections.abc import Callable, Iterator, Mapping
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
    table = _load(name, split, config, streaming=False)
    where = f"{name}, split {split}"
    found = find_columns(where, columns, table.column_names)
    picked = table.select_columns(list(set(found.values())))
    rows = map(_picker(found, table.features), picked)
    return check_rows(where, "row", enumerate(rows, start=1))


def stream_hub(
    name: str, columns: Columns, *, split: str = "train", config: str | None = None
) -> Iterator[Row]:
    """Rows of a data set of the Hub as they come over the network; none is kept.

    The arguments and errors are those of `read_hub`, but that each row is checked when it comes.
    """
    table = _load(name, split, config, streaming=True)
    where, rows = f"{name}, split {split}", iter(table)
    pick, number = None, 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except (OSError, ValueError) as error:
            raise DataError(
                f"{where} broke off at row {number}: {error} (is the network still there?)"
            ) from error
        if pick is None:
            pick = _picker(find_columns(where, columns, list(row)), table.features)
        yield from check_rows(where, "row", [(number, pick(row))])
    if pick is None:
        raise DataError(f"{where} is empty: expected a row or more")


def _load(name: str, split: str, config: str | None, *, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'{name!r} is no file, and the Hub needs datasets: pip install "qkv[train]"'
        ) from error
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is no file here, and the split {split!r} of such a data set of the Hub "
            f"cannot be had: {error}"
        ) from error


def _picker(
    found: Mapping[str, str], features: Mapping[str, Any] | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What takes a row's values by role, classes by their names."""
    names = {role: getattr((features or {}).get(at), "names", None) for role, at in found.items()}

    def value(role: str, given: Any) -> Any:
        classes = names[role]
        if classes is None or given is None:
            return given
        return classes[given] if given >= 0 else None  # -1 stands for a hidden label

    return lambda row: {role: value(role, row[column]) for role, column in found.items()}

"""Tables for terminals and notebooks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from qkv.explorer.kernel import in_notebook


def table_rows(
    table: Sequence[Mapping[str, object]] | Mapping[str, Iterable[object]], digits: int = 2
) -> list[dict[str, str]]:
    """Return the rows of a table as texts.

    Args:
        table: rows with the same columns, or columns of the same length by name.
        digits: number of decimals of floats; one-element tensors are shown as numbers, others as
            lists.
    """
    if isinstance(table, Mapping):
        columns = [list(column) for column in table.values()]
        table = [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]
    return [{name: _text(value, digits) for name, value in row.items()} for row in table]


def _text(value: Any, digits: int) -> str:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(one, digits) for one in value)
    return str(value)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows with the same columns as a Markdown table."""
    columns = list(rows[0])
    lines = [
        columns,
        ["---"] * len(columns),
        *([str(row[name]) for name in columns] for row in rows),
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show_table(
    title: str,
    table: Sequence[Mapping[str, object]] | Mapping[str, Iterable[object]],
    *,
    digits: int = 2,
) -> None:
    """Show a table under a title.

    Args:
        title: what it shows.
        table: rows with the same columns, or columns of the same length by name.
        digits: number of decimals of floats.
    """
    rows = table_rows(table, digits)
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"**{title}**\n\n{markdown_table(rows)}"))
        return
    shown = Table(title=title, title_justify="left")
    for name in rows[0]:
        shown.add_column(name, overflow="fold")  # a narrow terminal must not truncate names
    for row in rows:
        shown.add_row(*row.values())
    Console().print(shown)

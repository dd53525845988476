"""Tables for terminals and notebooks."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel, which can show Markdown and figures."""
    ipython = sys.modules.get("IPython")  # imported by a kernel, but also by many libraries
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows with the same columns as a Markdown table."""
    columns = list(rows[0])
    lines = [
        columns,
        ["---"] * len(columns),
        *([str(row[name]) for name in columns] for row in rows),
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Show rows with the same columns under a title."""
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"**{title}**\n\n{markdown_table(rows)}"))
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")  # a narrow terminal must not truncate names
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)

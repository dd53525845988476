"""Words and tables for a reader's terminal, and whole lines for a pipe."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: no line is cut, no [word] or :word: is a command."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def show_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table; into a pipe each row is one line, however long."""
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    # Not as the table's title, which would be broken where the table is narrow.
    console.print(title, style="italic", soft_wrap=True)
    console.print(table)

"""Console output: tables and progress bars on a terminal, one row per line in a pipe."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from qkv.tasks.streams import further_process, is_quiet

Item = TypeVar("Item")

NAME = 24  # characters of a name in the first column, which is not broken


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no wrapping, no markup, no emoji codes."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress_bar(items: Sequence[Item], label: str, *, show: bool) -> Iterable[Item]:
    """Iterate over items with a progress bar on standard error, if that is a terminal."""
    console = plain_console(stderr=True)
    hidden = not (show and console.is_terminal) or is_quiet() or bool(further_process())
    return track(items, label, console=console, transient=True, disable=hidden)


def show_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table; in a pipe each row is one line, however long."""
    table = Table()
    for i, name in enumerate(rows[0]):
        short = max(len(row[name]) for row in rows) <= NAME
        table.add_column(name, overflow="fold", no_wrap=i == 0 and short)  # names can be copied
    for row in rows:
        table.add_row(*row.values())
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    # The title of a narrow table would be wrapped.
    console.print(title, style="italic", soft_wrap=True)
    console.print(table)

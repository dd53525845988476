"""Options, cells and sections of a script in percent format."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qkv.data.sets import named_sets
from qkv.errors import ConfigError

# The variables that the cells read, also in a notebook.
FAST, TEXTS = "QKV_FAST", "QKV_TEXTS"

_SECTION = re.compile(r"# ## (\d+) ")


def read_options(arguments: Sequence[str] | None = None) -> list[int]:
    """Read the tutorial's command line into the variables that its cells read.

    Args:
        arguments: None means those of the process.

    Returns:
        The sections to run; none means all.

    Raises:
        ConfigError: the data is neither a file nor a named data set.
    """
    sets = ", ".join(known := named_sets("classify"))
    parser = argparse.ArgumentParser(description="Attention and Transformers, section by section.")
    parser.add_argument("--fast", action="store_true", help="train less: quicker, less accurate")
    parser.add_argument(
        "--section", type=int, nargs="+", metavar="N", help="run these sections only"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help=f"texts for section 9: a table with the columns text and label, or {sets}",
    )
    options = parser.parse_args(arguments)
    if options.fast:
        os.environ[FAST] = "1"
    if options.data:
        if options.data not in known and not Path(options.data).exists():
            raise ConfigError(
                f"--data {options.data} is neither a file nor a named set; expected a .csv, .tsv, "
                f".jsonl or .parquet table, or one of {sets}"
            )
        os.environ[TEXTS] = options.data
    return options.section or []


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a script; ``line`` is the line of its marker, or 0 before the first marker."""

    marker: str
    line: int
    source: str

    @property
    def runs(self) -> bool:
        """Whether this is code, except code tagged for scripts only."""
        return "[markdown]" not in self.marker and '"script"' not in self.marker

    @property
    def section(self) -> int | None:
        """The number in its heading, if this cell begins a section."""
        if "[markdown]" not in self.marker:
            return None
        heading = next((line for line in self.source.splitlines() if line.startswith("# #")), "")
        match = _SECTION.match(heading)
        return int(match[1]) if match else None


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a script, each of which begins with a line ``# %%``."""
    cells, marker, first, body = [], "", 0, list[str]()
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), "# %%"], 1):
        if line.startswith("# %%"):
            cells.append(Cell(marker=marker, line=first, source="\n".join(body)))
            marker, first, body = line, number, []
        else:
            body.append(line)
    return cells


def run_sections(path: Path, sections: list[int]) -> None:
    """Run the cells before the first section of a script, then some sections.

    A section begins with a markdown cell headed ``## 1 Its title``; cells tagged ``script`` are
    skipped. Tracebacks refer to the script's own lines.

    Raises:
        ConfigError: the script has no section with that number.
    """
    cells = read_cells(path)
    known = [cell.section for cell in cells if cell.section is not None]
    for section in sections:
        if section not in known:
            there = ", ".join(map(str, known)) or "none"
            raise ConfigError(f"{path.name} has no section {section}; it has {there}")
    namespace = {"__name__": "__main__", "__file__": str(path)}
    current = None
    for cell in cells:
        current = current if cell.section is None else cell.section
        if cell.runs and (current is None or current in sections):
            code = compile("\n" * cell.line + cell.source, path, "exec", dont_inherit=True)
            exec(code, namespace)

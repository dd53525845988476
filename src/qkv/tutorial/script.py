"""Options, cells and sections of a script in percent format."""

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.data.sets import named_sets
from qkv.errors import ConfigError

# The variables that the cells read, also in a notebook.
FAST, SEED, TEXTS = "QKV_FAST", "QKV_SEED", "QKV_TEXTS"

_HEADING = re.compile(r"# (#{1,3}) ((\d+)(?:\.\d+)? )?(.*)")
_MINUTES = re.compile(r"\*(.*\bminutes?\b.*)\*")


def read_options(script: Path, arguments: Sequence[str] | None = None) -> list[int]:
    """Read the tutorial's command line into the variables that its cells read.

    Args:
        script: the tutorial; `--list` prints its sections and ends the process.
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
        "--seed", type=int, metavar="N", help="seed of weights and batches; default 0"
    )
    parser.add_argument(
        "--section", type=int, nargs="+", metavar="N", help="run these sections only"
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help=f"texts for section 9: a table with the columns text and label, or {sets}",
    )
    parser.add_argument("--list", action="store_true", help="list the sections, and run nothing")
    options = parser.parse_args(arguments)
    if options.list:
        print_sections(read_cells(script))
        parser.exit()
    if options.fast:
        os.environ[FAST] = "1"
    if options.seed is not None:
        os.environ[SEED] = str(options.seed)
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
        """Whether this is a code cell that is not tagged for scripts only."""
        return "[markdown]" not in self.marker and '"script"' not in self.marker

    @property
    def headings(self) -> list["Heading"]:
        """The headings of a text, in their order."""
        if "[markdown]" not in self.marker:
            return []
        lines = self.source.splitlines()
        found = [(i, match) for i, line in enumerate(lines) if (match := _HEADING.fullmatch(line))]
        return [Heading.of(match, lines[i + 1 :]) for i, match in found]

    @property
    def section(self) -> int | None:
        """The number in its heading, if this cell begins a section."""
        return next((one.section for one in self.headings if one.level == 2), None)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading, and what the script prints of the text below it.

    Args:
        level: 1 for the title, 2 for a section, 3 for a part of one.
        section: the number of its section; None if it has none.
        title: the heading with its number.
        minutes: how long the section takes, if the text begins with it.
        sentence: the first sentence of the text.
    """

    level: int
    section: int | None
    title: str
    minutes: str
    sentence: str

    @classmethod
    def of(cls, match: re.Match[str], below: Sequence[str]) -> "Heading":
        """Read a heading from its line and the lines below it."""
        marks, numbers, section, title = match.groups()
        paragraphs = "\n".join(line.removeprefix("#").strip() for line in below).split("\n\n")
        texts = [" ".join(text.split()) for text in paragraphs if text.strip()]
        minutes = next((m[1] for m in map(_MINUTES.fullmatch, texts[:1]) if m), "")
        texts = texts[bool(minutes) :]
        first = (
            texts[0] if texts and not texts[0].startswith(("#", "|", "$", "-", "1.", "!")) else ""
        )
        return cls(
            level=len(marks),
            section=int(section) if section else None,
            title=f"{numbers or ''}{title}",
            minutes=minutes,
            sentence=re.split(r"(?<=[.:?]) (?=[A-Z*`_])", first)[0].replace("**", "").rstrip(":"),
        )

    def show(self) -> None:
        """Print it if it has a number; a section gets a rule."""
        if self.section is None:
            return
        if self.level == 2:
            print(f"\n━━ {self.title} {'━' * max(2, 76 - len(self.title))}")
            for line in (self.minutes, self.sentence):
                if line:
                    print(line)
        else:
            print(f"\n── {self.title}", flush=True)


def print_sections(cells: Sequence[Cell]) -> None:
    """Print the sections with their parts and minutes."""
    for heading in (one for cell in cells for one in cell.headings if one.section is not None):
        if heading.level == 2:
            minutes = f" ({heading.minutes.rstrip('.')})" if heading.minutes else ""
            print(f"{heading.title}{minutes}")
        else:
            print(f"    {heading.title}")


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


def run_sections(path: Path, sections: Sequence[int] = ()) -> None:
    """Run the cells before the first section of a script, then some sections, or all.

    A section begins with a markdown cell headed ``## 1 Its title``; cells tagged ``script`` are
    skipped. Headings are printed. Tracebacks refer to the script's own lines.

    Raises:
        ConfigError: the script has no section with that number.
    """
    cells = read_cells(path)
    known = [cell.section for cell in cells if cell.section is not None]
    for section in sections:
        if section not in known:
            there = ", ".join(map(str, known)) or "none"
            raise ConfigError(f"{path.name} has no section {section}; it has {there}")
    print(f"The text is in {path.name} and, with these results, in the notebooks.")
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    current, begin, chosen = None, time.monotonic(), True
    for cell in cells:
        if cell.section is not None:
            _say_seconds(current, begin)
            chosen = not sections or cell.section in sections
            current, begin = cell.section if chosen else None, time.monotonic()
        if not chosen:
            continue
        for heading in cell.headings:
            heading.show()
        if cell.runs:
            code = compile("\n" * cell.line + cell.source, path, "exec", dont_inherit=True)
            exec(code, namespace)
    _say_seconds(current, begin)


def _say_seconds(section: int | None, begin: float) -> None:
    if section is not None:
        print(f"(section {section} took {time.monotonic() - begin:.0f} seconds)")

"""Pages of the site that are made of data: equations, works, exercises."""

import importlib
import inspect
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.tutorial.exercises.registry import EXERCISES, find_exercise

DOCS = Path(__file__).parents[1] / "docs"


def read(name: str) -> dict[str, Any]:
    """Read a file of docs/ in TOML."""
    return tomllib.loads((DOCS / name).read_text(encoding="utf-8"))


def locate(entry: Mapping[str, str]) -> tuple[str, int, int]:
    """Return the code around the line of an equation, the number of the first line, and the line's.

    Raises:
        ValueError: the object has no such line, or several.
    """
    module, _, name = entry["object"].partition(":")
    it: Any = importlib.import_module(module)
    for part in name.split("."):
        it = getattr(it, part)
    lines, first = inspect.getsourcelines(inspect.unwrap(it))
    found = [i for i, line in enumerate(lines) if entry["line"] in line]
    if len(found) != 1:
        raise ValueError(
            f"{entry['object']} has {len(found)} lines with {entry['line']!r}; expected 1"
        )
    start, end = max(0, found[0] - 2), min(len(lines), found[0] + 2)
    start += max(
        (i + 1 for i, line in enumerate(lines[start : found[0]]) if '"""' in line), default=0
    )
    return "".join(lines[start:end]), first + start, first + found[0]


def equations_page() -> str:
    """Return the index from equations of papers to the lines that compute them."""
    page = ["# From equation to line", "", "Where the equations of the papers are in the code.", ""]
    for paper in read("equations.toml")["paper"]:
        page += [f"## {paper['title']}", ""]
        for one in paper["equation"]:
            module, _, name = one["object"].partition(":")
            code, first, line = locate(one)
            path = f"_modules/{module.replace('.', '/')}.html#{name}"
            place = f"<code>{module}</code>, line {line}"
            page += [
                f"### {one['name'][0].upper()}{one['name'][1:]}",
                "",
                f"$${one['formula']}$$",
                "",
                f'<a href="{path}">{place}</a>, in <code>{name}</code>:',
                "",
                "```{code-block} python",
                f":lineno-start: {first}",
                f":emphasize-lines: {line - first + 1}",
                "",
                inspect.cleandoc("\n" + code) if code.startswith(" ") else code.rstrip(),
                "```",
                "",
            ]
    return "\n".join(page)


def bibliography_page() -> str:
    """Return the list of works, in the order of their first authors."""
    page = ["# Bibliography", "", "The works that the code and the texts cite.", ""]
    for key, (authors, title, where, link) in sorted(read("bibliography.toml")["works"].items()):
        name = f"[{title}]({link})" if link else f"*{title}*"
        page += [f"**{key}.** {authors}. {name}. {where}.", ""]
    return "\n".join(page)


def exercises_page() -> str:
    """Return the tasks of the exercises, with the commands that check an answer."""
    page = [
        "# Exercises",
        "",
        "`qkv exercise start 2.2` writes a file with the task, and `qkv exercise check 2.2` runs "
        "your answer, compares it with the library, and names the mistake. In a notebook: "
        '`check("2.2", mine)`.',
        "",
    ]
    for number in EXERCISES:
        one = find_exercise(number)
        page += [f"## {number} {one.title}", "", "```text", one.task.strip(), "```", ""]
    return "\n".join(page)


def cited(text: str) -> set[str]:
    """Return what a text cites: "Name et al. 2017", "A and B 2020", "A, B and C 2015"."""
    plain = re.sub(r"\n\s*#?\s*", " ", text)
    name = r"[A-Z][\w\-]+"
    several = rf"{name}(?:, {name})*(?:,? and {name}| et al\.)"
    found = re.findall(rf"\b({several}),? \(?((?:19|20)\d\d)\b", plain)
    return {f"{who} {year}" for who, year in found}

"""Sphinx extension: our docstrings, plain text with a few conventions, as reStructuredText."""

import re
from collections.abc import Iterable
from textwrap import dedent
from typing import Any

SECTIONS = {"Args": "Arguments", "Raises": "Raises", "Returns": "Returns", "Yields": "Yields"}
ENTRY = re.compile(r"^(\*{0,2}[\w.]+): (.*)$", re.DOTALL)
CODE = re.compile(r"(``.+?``|`[^`\n]+(?:\n[^`\n]+)?`)")


def to_rst(lines: Iterable[str]) -> list[str]:
    """Convert a docstring: sections become lists, indented passages code, `x` code."""
    result = list[str]()
    for block in _blocks(list(lines)):
        head = block[0].rstrip(":") if block[0].endswith(":") else ""
        if head in SECTIONS:
            result += [f"**{SECTIONS[head]}**", "", *_entries(block[1:]), ""]
        elif block[0].startswith((" ", ">>>")):
            code = dedent("\n".join(block)).splitlines()
            result += [".. code-block:: text", "", *(f"   {line}" for line in code), ""]
        else:
            result += [*_text("\n".join(block)).splitlines(), ""]
    return result


def _blocks(lines: list[str]) -> list[list[str]]:
    """Split at empty lines; a section, and an indented passage, may contain some."""
    blocks = list[list[str]]()
    inside, empty = "", True
    for line in lines:
        if not line.strip():
            empty = True
            continue
        indented = line.startswith(" ")
        if not indented:
            inside = "section" if line.rstrip(":") in SECTIONS and line.endswith(":") else ""
        goes_on = not empty or (indented and (inside == "section" or inside == "code"))
        if indented and not inside and empty:
            inside, goes_on = "code", False
        if blocks and goes_on and not (not indented and inside == "section"):
            blocks[-1] += [""] * (empty and indented) + [line]
        else:
            blocks.append([line])
        empty = False
    return blocks


def _entries(lines: list[str]) -> list[str]:
    """Turn "name: what it is" with continuation lines into a list."""
    items = list[str]()
    for line in dedent("\n".join(lines)).splitlines():
        if items and (line.startswith(" ") or not line):
            items[-1] += f"\n{line.strip()}"
        else:
            items.append(line)
    result = list[str]()
    for item in items:
        named = ENTRY.match(item)
        text = f"``{named[1]}``: {_text(named[2])}" if named else _text(item)
        first, *rest = text.splitlines()
        result += [f"- {first}", *(f"  {line}" for line in rest)]
    return result


def _text(text: str) -> str:
    """Escape what reStructuredText would read as markup, outside of code."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2:
            inner = " ".join(part.strip("`").split())
            parts[i] = f"``{inner}``" if inner.strip() == inner else inner
            if i + 1 < len(parts) and parts[i + 1][:1].isalnum():
                parts[i] += "\\ "
            if parts[i - 1][-1:].isalnum() or parts[i - 1][-1:] in "_*":
                parts[i] = "\\ " + parts[i]
        else:
            parts[i] = re.sub(r"([\\*_|])", r"\\\1", part)
    return "".join(parts)


def _convert(_app: Any, _what: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> dict[str, bool]:
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", _convert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

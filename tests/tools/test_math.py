"""Formulas in Markdown, by the rules under which both GitHub and Jupyter show them."""

import re
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"\$([^$]+)\$")
# GitHub's Markdown takes these for its own before it looks for formulas.
EATEN = re.compile(r"\\[^A-Za-z\s]|\*|<[A-Za-z]")


def texts():
    """Every Markdown text that readers see: cells of the tutorial and of pages, and documents."""
    tutorial = jupytext.read(ROOT / "transformers_and_attention_mechanisms.py", fmt="py:percent")
    for number, cell in enumerate(tutorial.cells):
        if cell.cell_type == "markdown":
            yield f"cell {number}", cell.source
    for path in sorted((ROOT / "notebooks" / "src").rglob("*.py")):
        for number, cell in enumerate(jupytext.read(path, fmt="py:percent").cells):
            if cell.cell_type == "markdown":
                yield f"{path.name}, cell {number}", cell.source
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path.name, path.read_text(encoding="utf-8")


def faults(text):
    """What would not be shown as a formula, in one Markdown text."""
    text = CODE.sub("", text)
    found = []
    for formula in DISPLAY.findall(text):
        if "\n\n" in formula:
            found.append(f"a display formula with an empty line in it: {formula!r}")
    rest = DISPLAY.sub("", text)
    if rest.count("$") % 2:
        found.append(f"a dollar without its partner in {rest!r}")
    for match in INLINE.finditer(rest):
        formula, around = match[1], (rest[match.start() - 1 : match.start()], rest[match.end() :])
        if "\n" in formula or formula != formula.strip():
            found.append(f"an inline formula broken by a line or padded by a space: {formula!r}")
        if around[0].isalnum() or around[1][:1].isalnum():
            found.append(f"an inline formula that touches a letter or a digit: {formula!r}")
    for formula in DISPLAY.findall(text) + INLINE.findall(rest):
        found += [f"{hit[0]!r} in {formula!r}" for hit in EATEN.finditer(formula)]
        if formula.count("{") != formula.count("}"):
            found.append(f"unbalanced braces: {formula!r}")
    return found


@pytest.mark.parametrize(("where", "text"), [pytest.param(*each, id=each[0]) for each in texts()])
def test_github_and_jupyter_both_show_every_formula(where, text):
    assert not faults(text), where


@pytest.mark.parametrize(
    "text",
    [
        r"$a\,b$",
        r"$\{a\}$",
        r"$a * b$",
        "$a\nb$",
        "$ a$",
        "x$a$",
        "$a$2",
        "a $ b",
        "$a<b$",
        "$$a\n\nb$$",
        r"$\frac{a}{b$",
    ],
)
def test_what_one_of_the_two_does_not_show_is_found(text):
    assert faults(text)


def test_code_is_no_formula():
    assert not faults("`$x` and\n```sh\necho $HOME\n```\n and $a_i$, $b$.")

"""The page of the site that is made of the bank of questions."""

from collections.abc import Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from qkv.tutorial.script import read_cells

SCRIPT = Path(__file__).parents[1] / "transformers_and_attention_mechanisms.py"
LEVELS = {1: "recall", 2: "apply", 3: "reason"}
# A choice is beside the marker that opens it, though Markdown makes a paragraph of it.
STYLE = """<style>
details.choice > summary > p { display: inline; }
details.choice > p { margin: 0.3rem 0 0.8rem 1.1rem; }
details.choice + p { margin-top: 2.5rem; }
</style>"""


def quiz_page(bank: Mapping[str, Any]) -> str:
    """Return the questions as MyST Markdown: each choice opens its explanation, without JavaScript.

    Args:
        bank: the content of docs/teaching/quiz.toml.
    """
    page = ["# Quiz", "", STYLE, ""]
    page += [
        "One choice of four is right. Open a choice to see whether it is this one, and why.",
        "",
    ]
    for section, questions in groupby(bank["question"], lambda one: one["section"].split(".")[0]):
        page += [f"## {titles()[section]}", ""]
        for number, one in enumerate(questions, 1):
            page += _question(one, f"{section}-{number}")
    return "\n".join(page)


@cache
def titles() -> dict[str, str]:
    """Return the headings of the tutorial by their number, such as "2" and "2.3"."""
    headings = (one for cell in read_cells(SCRIPT) for one in cell.headings)
    return {one.title.split()[0]: one.title for one in headings if one.section is not None}


def _question(one: Mapping[str, Any], number: str) -> list[str]:
    """Return the lines of a question."""
    place = f"*{titles()[one['section']]}; level {one['level']}: {LEVELS[one['level']]}*"
    lines = [f"**{number}.** {one['text']}", "", place, ""]
    if one["figure"]:
        lines += [f"![Figure of question {number}]({one['figure']})", ""]
    for letter, choice in zip("ABCD", one["choice"], strict=True):
        answer = f"**{'Right' if choice['right'] else 'No'}.** {choice['why']}"
        # Between tags, Markdown is read after blank lines only.
        lines += ['<details class="choice">', "<summary>", ""]
        lines += [f"{letter}. {choice['text']}", "", "</summary>", "", answer, "", "</details>", ""]
    return lines

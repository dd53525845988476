"""The tutorial's sections, read without running them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qkv.tutorial.script import read_cells

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "transformers_and_attention_mechanisms.py"
CELLS = read_cells(SCRIPT)
BEGIN = next(cell for cell in CELLS if cell.section == 0)
SECTIONS = [cell.section for cell in CELLS if cell.section is not None]
MOST_LINES = 4_700  # of the sections before the two pages of section 10
MOST_GLUE = 1_300  # `python tools/glue.py` shows what is counted


def test_the_sections_are_ten_and_what_comes_before():
    assert list(range(11)) == SECTIONS


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_uses_no_name_of_another(section, tmp_path):
    current, sources = None, []
    for cell in CELLS:
        current = current if cell.section is None else cell.section
        if cell.runs and current in (None, section):
            sources.append(cell.source)
    file = tmp_path / "section.py"
    file.write_text("\n".join(sources))
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(file)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_says_how_long_it_takes_and_what_to_keep(section):
    current, texts = None, []
    for cell in CELLS:
        current = current if cell.section is None else cell.section
        if current == section and not cell.runs:
            texts.append(cell.source)
    headings = (one for cell in CELLS for one in cell.headings if one.section == section)
    heading = next(one for one in headings if one.level == 2)
    assert re.fullmatch(r"\d+ minutes to read.*, .+ to run\.", heading.minutes)
    assert heading.sentence
    assert section == 0 or "**What to keep.**" in texts[-1]


def test_the_script_does_not_grow():
    before, _, pages = SCRIPT.read_text().partition("\n# ## 10 ")
    assert len(before.splitlines()) <= MOST_LINES
    assert len(pages.splitlines()) <= 30


def test_most_of_the_code_is_what_the_tutorial_is_about():
    run = [sys.executable, str(ROOT / "tools" / "glue.py")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    [*_, glue] = done.stdout.splitlines()[-1].split()
    assert int(glue) <= MOST_GLUE


def test_the_set_up_is_short():
    first = [cell.source for cell in CELLS[: CELLS.index(BEGIN)] if cell.runs][-1]
    assert len(first.splitlines()) <= 30

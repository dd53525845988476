"""The page of the quiz: every question and choice is on it, and Sphinx reads it as it is meant."""

import html
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from docs_teaching import quiz_page  # noqa: E402

BANK = tomllib.loads((ROOT / "docs" / "teaching" / "quiz.toml").read_text(encoding="utf-8"))


def test_every_choice_opens_its_explanation():
    page = quiz_page(BANK)
    n_questions = len(BANK["question"])
    assert page.count("<details") == page.count("</details>") == 4 * n_questions
    assert page.count("\n**Right.** ") == n_questions
    assert page.count("\n**No.** ") == 3 * n_questions
    assert len(re.findall(r"^## \d ", page, re.MULTILINE)) == 10
    for question in BANK["question"]:
        assert question["text"] in page
        for choice in question["choice"]:
            verdict = "Right" if choice["right"] else "No"
            assert f"{choice['text']}\n\n</summary>\n\n**{verdict}.** {choice['why']}\n" in page


def test_a_figure_is_shown_with_its_question():
    question = BANK["question"][0] | {"figure": "images/masks.png"}
    page = quiz_page({"question": [question]})
    assert "\n![Figure of question 0-1](images/masks.png)\n" in page


def test_sphinx_reads_formulas_and_code_in_choices(tmp_path):
    pytest.importorskip("myst_nb")
    (tmp_path / "conf.py").write_text(
        'extensions = ["myst_nb"]\nmyst_enable_extensions = ["dollarmath", "attrs_inline"]\n'
    )
    (tmp_path / "index.md").write_text(quiz_page(BANK), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert made.count('<details class="choice">') == 4 * len(BANK["question"])
    assert "<summary>\n<p>A. " in made
    texts = [c[field] for q in BANK["question"] for c in q["choice"] for field in ("text", "why")]
    texts += [question["text"] for question in BANK["question"]]
    n_formulas = sum(len(re.findall(r"\$[^$]+\$", text)) for text in texts)
    n_titles = sum(
        "$" in html.unescape(line) for line in quiz_page(BANK).splitlines() if "; level " in line
    )
    assert made.count('class="math notranslate nohighlight"') == n_formulas + n_titles
    assert "$" not in re.sub(r"<(pre|code|script).*?</\1>", "", made, flags=re.DOTALL)

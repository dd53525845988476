"""Slides: what they show comes from the notebooks, and a name that is gone is an error."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mdit_py_plugins")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from make_slides import make_slides, read_goals, read_sections  # noqa: E402

TEXT = """\
## 1 Masks

The first paragraph, with $a_i$ and a [link](../src/qkv/errors.py).

$$ a = \\mathrm{softmax}(e)
$$

After the formula.

### 1.1 Their use

Only text & more."""
SOURCE = "[`src/qkv/errors.py`](../src/qkv/errors.py)\n\n```python\nx = 1\n\n# ## 9 no heading\n```"
CODE = "import torch\n\n\ndef mask(n):\n    return n < 3\n\n\nprint(mask(2))\n"
OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": ["True\n"]},
    {
        "output_type": "display_data",
        "data": {"text/markdown": ["**Weights of `a`**\n", "\n", "| a |\n", "| --- |\n", "| 1 |"]},
    },
    {
        "output_type": "display_data",
        "data": {"text/plain": "Figure: Masks", "image/png": "iVBORw0KGgo=\n"},
    },
]
SYLLABUS = """\
### Lecture 1: Masks & more

*Section 1*

After this you can

- mask $a_i$;
- test it.

**Show live.** Nothing.
"""
QUIZ = """\
[[question]]
section = "1"
level = 1
text = "What is $a_i$?"
figure = ""
choice = [
    { text = "a weight", right = true, why = "It is." },
    { text = "a score", right = false, why = "This is $e_i$." },
    { text = "a key", right = false, why = "A vector." },
    { text = "a value", right = false, why = "Also a vector." },
]
"""
SLIDE = """\
[[lecture]]
quiz = ["What is"]
[[lecture.slide]]
section = "1"
points = ["One *point*"]
formula = ["softmax"]
code = ["mask"]
[[lecture.slide]]
section = "1.1"
"""


A = '<span class="math inline">\\(a_i\\)</span>'


@pytest.fixture
def folder(tmp_path):
    cells = [{"cell_type": "markdown", "source": text} for text in (SOURCE, TEXT)]
    first, _, second = TEXT.partition("### ")
    cells[1]["source"] = first
    cells.append({"cell_type": "code", "source": CODE.splitlines(True), "outputs": OUTPUTS})
    cells.append({"cell_type": "markdown", "source": f"### {second}"})
    (tmp_path / "1_masks.ipynb").write_text(json.dumps({"cells": cells}))
    for name, content in (("syllabus.md", SYLLABUS), ("quiz.toml", QUIZ), ("slides.toml", SLIDE)):
        (tmp_path / name).write_text(content)
    return tmp_path


def slides(folder):
    [path] = make_slides(folder, folder / "out", "../_static", teaching=folder)
    assert path.name == "lecture_01.html"
    page = path.read_text(encoding="utf-8")
    return page, re.findall(r"<section>.*?</section>", page, re.DOTALL)


def test_a_lecture_has_a_title_goals_slides_and_questions(folder):
    _, (title, goals, first, second, question) = slides(folder)
    assert "<h1>Lecture 1: Masks &amp; more</h1>" in title
    assert f"<li>mask {A};</li>" in goals
    assert "<h2>Masks</h2>" in first
    assert "<li>One <em>point</em></li>" in first
    assert "\\[ a = \\mathrm{softmax}(e)\n\\]" in first
    assert "<code>def mask(n):\n    return n &lt; 3</code>" in first
    assert "<h2>Their use</h2>" in second
    assert '<ol type="A"><li>a weight</li><li>a score</li>' in question
    assert "<p>A: right. It is.</p>\n<p>B: no. This is" in question


def test_notes_are_the_text_of_the_section(folder):
    _, (_, _, first, second, _) = slides(folder)
    notes = re.search(r'<aside class="notes">(.*?)</aside>', first, re.DOTALL)[1]
    assert f"The first paragraph, with {A} and a link.</p>" in notes
    assert "<p>After the formula.</p>" in notes
    assert "Only text &amp; more." in second
    assert "Only text" not in first
    assert "no heading" not in first + second


def test_figures_and_tables_are_embedded(folder):
    more = SLIDE.replace('code = ["mask"]', 'figure = ["Masks"]\ntable = ["Weights of"]')
    (folder / "slides.toml").write_text(more)
    _, (_, _, first, _, _) = slides(folder)
    assert '<img alt="Figure: Masks" src="data:image/png;base64,iVBORw0KGgo=">' in first
    assert "<strong>Weights of <code>a</code></strong>" in first
    assert "<td>1</td>" in first


def test_two_slides_of_a_section_share_its_text(folder):
    twice = SLIDE.replace(
        'code = ["mask"]\n', '[[lecture.slide]]\nsection = "1"\ncode = ["mask"]\n', 1
    )
    (folder / "slides.toml").write_text(twice)
    _, (_, _, first, second, _, _) = slides(folder)
    assert "The first paragraph" in first
    assert "After the formula" not in first
    assert "After the formula" in second
    assert "The first paragraph" not in second


def test_nothing_comes_from_another_host(folder):
    page, _ = slides(folder)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) == 6
    assert all(address.startswith(("../_static/", "data:")) for address in addresses)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('["softmax"]', '["gone"]', "Masks: 0 times formula 'gone'; expected 1"),
        ('["mask"]', '["print"]', "Masks: 0 times code 'print'; expected 1"),
        ('"1.1"', '"1.2"', "there is no section 1.2"),
        ('["What is"]', '["Who"]', "0 questions begin with 'Who'; expected 1"),
    ],
)
def test_what_is_not_there_is_named(folder, old, new, error):
    (folder / "slides.toml").write_text(SLIDE.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(error)):
        slides(folder)


def test_the_plan_fits_the_notebooks(tmp_path):
    files = make_slides(ROOT / "notebooks", tmp_path, "static")
    assert [path.name for path in files] == [f"lecture_{i:02}.html" for i in range(1, 13)]
    for path in files:
        page = path.read_text(encoding="utf-8")
        assert page.count("<section>") >= 10
        assert page.count('<aside class="notes">') >= 6
        assert "$" not in re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)


def test_goals_and_sections_are_read_from_the_repository():
    goals = read_goals((ROOT / "docs" / "teaching" / "syllabus.md").read_text(encoding="utf-8"))
    assert len(goals) == 12
    assert all(3 <= text.count("\n- ") <= 4 for _, text in goals)
    assert len(read_sections(ROOT / "notebooks")) > 60

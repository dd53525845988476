"""The pages that are made of data: every equation has its line, every citation its work."""

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import docs_pages  # noqa: E402
from docs_docstrings import to_rst  # noqa: E402

EQUATIONS = [
    one for paper in docs_pages.read("equations.toml")["paper"] for one in paper["equation"]
]
WORKS = docs_pages.read("bibliography.toml")["works"]


@pytest.mark.parametrize("one", EQUATIONS, ids=lambda one: f"{one['object']}-{one['name'][:20]}")
def test_an_equation_leads_to_its_line(one):
    code, first, line = docs_pages.locate(one)
    assert one["line"] in code.splitlines()[line - first]
    module = one["object"].partition(":")[0].replace(".", "/")
    source = (ROOT / "src" / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert one["line"] in source[line - 1]


def test_papers_of_the_index():
    titles = " ".join(paper["title"] for paper in docs_pages.read("equations.toml")["paper"])
    for name in ("Bahdanau", "Luong", "Vaswani", "BERT", "GPT", "ViT", "RoPE", "ALiBi", "LoRA"):
        assert name in titles


def test_a_line_that_is_gone_is_named():
    with pytest.raises(ValueError, match="dot_scores has 0 lines with 'gone'; expected 1"):
        docs_pages.locate({"object": "qkv.attention.scores:dot_scores", "line": "gone"})


def first_author_and_year(citation):
    return re.match(r"[\w\-]+", citation)[0].lower(), re.search(r"\d{4}", citation)[0]


def texts():
    yield from sorted((ROOT / "src" / "qkv").rglob("*.py"))
    yield from (path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "log.md")
    yield ROOT / "transformers_and_attention_mechanisms.py"
    yield ROOT / "README.md"


def test_every_citation_is_in_the_bibliography():
    known = {first_author_and_year(key) for key in WORKS}
    known |= {("tjong", "2003"), ("meulder", "2003")}
    missing = {
        (one, path.name)
        for path in texts()
        for one in docs_pages.cited(path.read_text(encoding="utf-8"))
        if first_author_and_year(one) not in known
    }
    assert not missing


def test_links_of_works_are_well_formed():
    for key, (authors, title, where, link) in WORKS.items():
        assert all((authors, title, where)), key
        if link:
            parts = urlsplit(link)
            assert parts.scheme == "https", key
            assert parts.path.strip("/"), key
            if parts.netloc == "arxiv.org":
                assert re.fullmatch(r"/abs/(\d{4}\.\d{4,5}|cs/\d{7})", parts.path), key
    links = [work[3] for work in WORKS.values() if work[3]]
    assert len(set(links)) == len(links)


def test_a_docstring_becomes_restructured_text():
    text = """score(q, k) = v^T tanh(W q_t), of `q` and `k_proj`s.

    q q q
    | | |

Args:
    x: queries, (B, *any)
        in two lines.
    mask: True = may attend.

Raises:
    ShapeError: if `x` is 3 | 4.
"""
    assert to_rst(text.splitlines()) == [
        r"score(q, k) = v^T tanh(W q\_t), of ``q`` and ``k_proj``\ s.",
        "",
        ".. code-block:: text",
        "",
        "   q q q",
        "   | | |",
        "",
        "**Arguments**",
        "",
        r"- ``x``: queries, (B, \*any)",
        "  in two lines.",
        "- ``mask``: True = may attend.",
        "",
        "**Raises**",
        "",
        r"- ``ShapeError``: if ``x`` is 3 \| 4.",
        "",
    ]

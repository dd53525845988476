"""The pages of the variants: what is written from scratch is the library, and has its limit."""

import importlib.util
import re
from pathlib import Path

import jupytext
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "notebooks" / "src"
PAGES = sorted((SOURCES / "variants").glob("*.py"))


def cells(path):
    return [
        (cell.metadata.get("tags", []), cell)
        for cell in jupytext.read(path, fmt="py:percent").cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_is_written_from_scratch_is_the_library_and_has_its_limit(path, capsys):
    (_, set_up), *_ = [(tags, cell) for tags, cell in cells(SOURCES / "variant.py") if not tags]
    threads = torch.get_num_threads()
    names = {}
    exec(set_up.source, names)  # seeds, and defines assert_equal
    torch.set_num_threads(threads)
    for part in ("scratch", "limit", "make"):
        code = [cell.source for tags, cell in cells(path) if part in tags]
        assert code
        for source in code:
            exec(source, names)
    assert capsys.readouterr().out.count("largest difference") >= 2
    module = names["make"](16, 2, 1)
    x = torch.randn(2, 7, 16)
    y = x.clone()
    y[:, 5:] += 1
    torch.testing.assert_close(module(x)[:, :5], module(y)[:, :5])  # causal


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_asserts_what_its_verdict_states(path):
    (verdict,) = [cell.source for tags, cell in cells(path) if "verdict" in tags]
    assert "assert" in verdict
    assert "gain" in verdict


def test_every_mechanism_that_is_compared_links_to_its_page():
    text = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^### (.+)\n", text.partition("\n## Costs")[0], flags=re.MULTILINE)
    linked = {}
    for heading, section in zip(sections[::2], sections[1::2], strict=True):
        links = re.findall(r"\(\.\./notebooks/variants/(\w+)\.ipynb\)", section)
        linked[re.sub(r"\W+", "_", heading.lower())] = links
    assert linked.pop("shared") == []  # a layer that only exists together with an earlier one
    assert linked == {path.stem: [path.stem] for path in PAGES}


def test_every_source_has_its_notebook():
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools" / "build_notebook.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert len(tool.sources()) == len(PAGES) + 2
    for source in tool.sources():
        assert tool.notebook_of(source).is_file()

import importlib.util
import io
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from qkv.errors import DataError
from qkv.tutorial.source import source_of

TOOL = Path(__file__).resolve().parents[2] / "tools" / "build_notebook.py"

SCRIPT = """\
# %% [markdown]
# # A tutorial
# Its prose.

# %% tags=["script"]
raise SystemExit("for whole scripts alone")

# %%
import os

from qkv.errors import DataError
from qkv.tutorial.source import show_source

# %%
show_source(DataError)

# %%
print(os.getcwd(), os.environ.get("QKV_FAST"))
print("step 1\\rstep 2")

# %%
print("twice")

# %%
print("twice")
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_notebook", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(SCRIPT)
    return path


def read(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def test_cells_for_scripts_are_left_out_and_nothing_else(tool, script):
    kinds = [cell.cell_type for cell in tool.build(script).cells]
    assert kinds == ["markdown", "code", "markdown", "code", "code", "code"]


def test_shown_source_becomes_text_with_a_link(tool, script):
    shown = tool.build(script).cells[2].source
    assert shown.startswith("[`src/qkv/errors.py`](src/qkv/errors.py)\n\n```python\n")
    assert source_of(DataError) in shown


def test_a_cell_that_does_more_than_show_source_stays_code(tool, script):
    script.write_text(SCRIPT.replace("show_source(DataError)", "show_source(DataError)\nx = 1"))
    assert tool.build(script).cells[2].cell_type == "code"


def test_source_with_a_fence_in_it_gets_a_longer_fence(tool, monkeypatch):
    monkeypatch.setattr(tool, "source_of", lambda shown: 'def f():\n    """```"""')
    assert tool.as_markdown(DataError).endswith('\n````python\ndef f():\n    """```"""\n````')


def test_two_builds_are_equal_and_ids_are_unique(tool, script):
    first, second = tool.build(script), tool.build(script)
    assert nbformat.writes(first) == nbformat.writes(second)
    assert len({cell.id for cell in first.cells}) == len(first.cells)
    nbformat.validate(first)


def test_check_passes_on_what_was_built_and_shows_what_differs(tool, script):
    tool.main([str(script), "--no-execute"])
    tool.main([str(script), "--check"])
    script.write_text(SCRIPT.replace("Its prose.", "Other prose."))
    with pytest.raises(
        SystemExit, match=r"sample\.ipynb differs(.|\n)*\n-Its prose\.\n\+Other prose\."
    ):
        tool.main([str(script), "--check"])


def test_check_fails_where_there_is_no_notebook(tool, script):
    with pytest.raises(SystemExit, match=r"sample\.ipynb differs from its script; run `make "):
        tool.main([str(script), "--check"])


def test_executed_outputs_hold_no_path_of_this_machine(tool, script, monkeypatch):
    monkeypatch.setenv("QKV_FAST", "0")
    tool.main([str(script), "--fast"])
    text = script.with_suffix(".ipynb").read_text()
    assert str(tool.ROOT) not in text
    assert str(Path.home()) not in text
    cells = read(script).cells
    assert cells[3].outputs[0].text == ". 1\nstep 2\n"
    assert all("execution" not in cell.metadata for cell in cells)


def test_of_a_widget_only_its_figure_is_kept(tool, script):
    live = (
        "\n# %%\nimport torch\n\nfrom qkv.explorer.notebook import explore_weights\n"
        "from qkv.tutorial.show import show_weights\n\nw = torch.eye(2)\n"
        "live = lambda: explore_weights(w, 'ab')\n"
        "show_weights('w', {'w': (w, 'ab', 'ab')}, size=(2, 2), live=live)\n"
    )
    script.write_text(SCRIPT + live)
    tool.main([str(script)])
    [output] = read(script).cells[-1].outputs
    assert set(output.data) == {"image/png", "text/plain"}
    assert "widgets" not in read(script).metadata
    assert script.with_suffix(".ipynb").stat().st_size < 20_000


def test_images_are_kept_with_a_palette(tool, script):
    script.write_text(SCRIPT + "\n# %%\nfrom PIL import Image\n\nImage.new('RGB', (3, 5), 'red')\n")
    tool.main([str(script)])
    data = b64decode(read(script).cells[-1].outputs[0].data["image/png"])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.size) == ("P", (3, 5))


def test_output_elsewhere_leaves_the_notebook(tool, script, tmp_path):
    tool.main([str(script), "--no-execute", "--output", str(tmp_path / "elsewhere.ipynb")])
    assert (tmp_path / "elsewhere.ipynb").exists()
    assert not script.with_suffix(".ipynb").exists()


def test_no_execute_keeps_the_outputs_of_unchanged_cells_alone(tool, script):
    tool.main([str(script), "--no-execute"])
    notebook = read(script)
    for cell in notebook.cells[3:]:
        cell.outputs = [nbformat.v4.new_output("stream", text=f"kept {cell.id}")]
    nbformat.write(notebook, script.with_suffix(".ipynb"))
    script.write_text(SCRIPT.replace("step 1", "step one"))
    tool.main([str(script), "--no-execute"])
    changed, *unchanged = read(script).cells[3:]
    assert changed.outputs == []
    assert [cell.outputs[0].text for cell in unchanged] == [f"kept {cell.id}" for cell in unchanged]


def test_a_failing_cell_leaves_the_old_notebook(tool, script):
    tool.main([str(script), "--no-execute"])
    before = script.with_suffix(".ipynb").read_text()
    script.write_text(SCRIPT + "\n# %%\n1 / 0\n")
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        tool.main([str(script)])
    assert script.with_suffix(".ipynb").read_text() == before


SECTIONS = (
    SCRIPT
    + """
# %% [markdown] tags=["contents"]
# ## Contents

# %% [markdown]
# ## Setting up

# %%
base = 2

# %% [markdown]
# ## 1 The first
#
# *3 minutes to read, 1 to run.*
#
# ### 1.1 A part
#
# [A file](src/qkv/errors.py).

# %%
print(base + 1)

# %% [markdown]
# ## 2 The second (b)

# %%
print(base + 2)
"""
)


def test_one_section_is_executed_and_the_others_keep_their_outputs(tool, script):
    script.write_text(SECTIONS)
    tool.main([str(script), "--section", "2"])
    whole = read(script)
    outputs = {cell.source: cell.outputs for cell in whole.cells if cell.cell_type == "code"}
    assert outputs["print(base + 2)"][0].text == "4\n"
    assert not outputs["print(base + 1)"]
    tool.main([str(script), "--section", "1"])
    cells = {cell.source: cell for cell in read(script).cells if cell.cell_type == "code"}
    assert cells["print(base + 2)"].outputs[0].text == "4\n"
    assert cells["print(base + 1)"].outputs[0].text == "3\n"
    counts = [cell.execution_count for cell in read(script).cells if cell.cell_type == "code"]
    assert [n for n in counts if n] == sorted(n for n in counts if n)


def test_contents_and_parts(tool, script):
    script.write_text(SECTIONS)
    tool.main([str(script), "--no-execute"])
    (contents,) = (c.source for c in read(script).cells if c.source.startswith("## Contents"))
    assert contents.splitlines()[2:] == [
        "- [1 The first](#1-The-first) ([alone](notebooks/1_the_first.ipynb)), "
        "3 minutes to read, 1 to run",
        "  - [1.1 A part](#1.1-A-part)",
        "- [2 The second (b)](#2-The-second-%28b%29) ([alone](notebooks/2_the_second_b.ipynb))",
    ]
    folder = script.parent / "notebooks"
    assert {file.name for file in folder.iterdir()} == {"1_the_first.ipynb", "2_the_second_b.ipynb"}
    cells = nbformat.read(folder / "1_the_first.ipynb", as_version=4).cells
    assert [cell.source.splitlines()[0] for cell in cells] == [
        "# 1 The first",
        "## Setting up",
        "base = 2",
        "## 1 The first",
        "print(base + 1)",
    ]
    assert "[A file](../src/qkv/errors.py)" in cells[3].source
    tool.main([str(script), "--check"])
    (folder / "2_the_second_b.ipynb").write_text((folder / "1_the_first.ipynb").read_text())
    with pytest.raises(SystemExit, match=r"2_the_second_b\.ipynb differs from its script"):
        tool.main([str(script), "--check"])


def test_a_large_notebook_is_refused(tool, script, monkeypatch):
    script.write_text(SECTIONS)
    tool.main([str(script), "--no-execute"])
    monkeypatch.setattr(tool, "LIMITS", (10**6, 100))
    with pytest.raises(SystemExit, match=r"1_the_first\.ipynb has .* bytes; expected at most 100"):
        tool.main([str(script), "--check"])


FRAME = """\
# %% tags=["variant"]
# intro

# %%
base = 2

# %% tags=["variant"]
# check
"""
VARIANT = """\
# %% [markdown] tags=["intro"]
# # A variant, of [a file](src/qkv/errors.py)

# %% tags=["check"]
print(base + 1)
"""


@pytest.fixture
def pages(tool, tmp_path, monkeypatch):
    """A folder of sources: a page, a frame and a variant."""
    folder = tmp_path / "notebooks" / "src"
    (folder / "variants").mkdir(parents=True)
    (folder / "variant.py").write_text(FRAME)
    (folder / "variants" / "one.py").write_text(VARIANT)
    (folder / "10a_page.py").write_text(SCRIPT)
    monkeypatch.setattr(tool, "SOURCES", folder)
    return folder


def test_the_sources_of_pages_are_found_without_the_frame(tool, pages):
    assert [path.name for path in tool.sources()] == ["10a_page.py", "one.py"]
    assert tool.notebook_of(pages / "10a_page.py") == pages.parent / "10a_page.ipynb"
    assert (
        tool.notebook_of(pages / "variants" / "one.py") == pages.parent / "variants" / "one.ipynb"
    )


def test_a_variant_stands_in_its_frame(tool, pages):
    tool.main([str(pages / "variants" / "one.py")])
    cells = nbformat.read(pages.parent / "variants" / "one.ipynb", as_version=4).cells
    assert [cell.source.splitlines()[0] for cell in cells] == [
        "# A variant, of [a file](../../src/qkv/errors.py)",
        "base = 2",
        "print(base + 1)",
    ]
    assert cells[2].outputs[0].text == "3\n"
    tool.main([str(pages / "variants" / "one.py"), "--check"])


def test_a_variant_without_a_cell_for_a_place_of_the_frame_is_named(tool, pages):
    (pages / "variants" / "one.py").write_text(VARIANT.replace("check", "other"))
    with pytest.raises(
        SystemExit, match=r"one\.py has no cell tagged check, for which variant\.py"
    ):
        tool.main([str(pages / "variants" / "one.py"), "--no-execute"])


def test_pages_are_checked_with_the_tutorial_and_kept_beside_its_sections(
    tool, pages, script, monkeypatch
):
    monkeypatch.setattr(tool, "SCRIPT", script)
    script.write_text(SECTIONS)
    tool.main(["--no-execute"])
    folder = script.parent / "notebooks"
    assert {path.name for path in folder.glob("*.ipynb")} == {
        "10a_page.ipynb",
        "1_the_first.ipynb",
        "2_the_second_b.ipynb",
    }
    tool.main(["--check"])
    (pages / "variant.py").write_text(FRAME.replace("base = 2", "base = 3"))
    with pytest.raises(SystemExit, match=r"one\.ipynb differs from its script"):
        tool.main(["--check"])


def test_a_large_page_of_a_variant_is_refused(tool, pages, monkeypatch):
    tool.main([str(pages / "variants" / "one.py"), "--no-execute"])
    monkeypatch.setattr(tool, "VARIANT_LIMIT", 100)
    with pytest.raises(SystemExit, match=r"one\.ipynb has .* bytes; expected at most 100"):
        tool.main([str(pages / "variants" / "one.py"), "--check"])

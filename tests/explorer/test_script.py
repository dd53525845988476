import traceback

import pytest

from qkv.errors import ConfigError
from qkv.explorer.script import read_cells, run_sections

SCRIPT = """\
# %% [markdown]
# # A tutorial

# %%
log = ["set-up"]

# %% tags=["script"]
raise SystemExit("for whole scripts alone")

# %% [markdown]
# ## 1 First
# Prose.

# %%
log.append("first")

# %% [markdown]
# ### A part of the first section

# %%
log.append("still first")

# %% [markdown]
# ## 7 Seventh

# %%
log.append("seventh")
report(log, __name__, __file__)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def reports(monkeypatch):
    received = []
    monkeypatch.setattr("builtins.report", lambda *what: received.append(what), raising=False)
    return received


@pytest.mark.parametrize(
    ("sections", "log"),
    [
        ([7], ["set-up", "seventh"]),
        ([7, 1], ["set-up", "first", "still first", "seventh"]),
    ],
)
def test_the_set_up_and_the_chosen_sections_run(script, reports, sections, log):
    run_sections(script, sections)
    assert reports == [(log, "__main__", str(script))]


def test_a_section_that_was_not_chosen_does_not_run(script, reports):
    run_sections(script, [1])
    assert reports == []


def test_an_unknown_section_names_those_there_are(script):
    with pytest.raises(ConfigError, match=r"script\.py has no section 2; it has 1, 7"):
        run_sections(script, [1, 2])


def test_a_traceback_names_the_line_of_the_script(script):
    script.write_text(SCRIPT.replace('log.append("seventh")', "1 / 0"))
    with pytest.raises(ZeroDivisionError) as error:
        run_sections(script, [7])
    frame = traceback.extract_tb(error.value.__traceback__)[-1]
    assert frame.filename == str(script)
    assert frame.line == "1 / 0"


def test_no_line_of_the_script_is_lost(script):
    cells = read_cells(script)
    joined = "\n".join(f"{cell.marker}\n{cell.source}" for cell in cells).strip("\n")
    assert joined == SCRIPT.strip("\n")

import os
import traceback
from pathlib import Path

import pytest

from qkv.errors import ConfigError
from qkv.tutorial.script import read_cells, read_options, run_sections

SELF = Path(__file__)
SCRIPT = """\
# %% [markdown]
# # A tutorial

# %%
log = ["set-up"]

# %% tags=["script"]
raise SystemExit("for whole scripts alone")

# %% [markdown]
# ## 1 First
#
# *3 minutes to read, 1 to run.*
#
# A **sentence** says (cf. e.g. 2.1)
# what comes. Another does not.

# %%
log.append("first")

# %% [markdown]
# ### 1.1 A part of it
#
# $$ 1 $$

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


@pytest.fixture
def no_options(monkeypatch):
    for name in ("QKV_FAST", "QKV_SEED", "QKV_TEXTS"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test sets
        monkeypatch.delenv(name)


def test_without_options_all_sections_run_and_no_variable_is_set(no_options):
    assert read_options(SELF, []) == []
    assert not {"QKV_FAST", "QKV_SEED", "QKV_TEXTS"} & set(os.environ)


def test_options_become_what_the_cells_read(no_options):
    options = ["--fast", "--seed", "2", "--section", "9", "2", "--data", "sst2"]
    assert read_options(SELF, options) == [9, 2]
    assert os.environ["QKV_SEED"] == "2"
    assert os.environ["QKV_FAST"] == "1"
    assert os.environ["QKV_TEXTS"] == "sst2"


def test_data_may_be_a_file(no_options, tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("text,label\n")
    read_options(SELF, ["--data", str(path)])
    assert os.environ["QKV_TEXTS"] == str(path)


def test_data_that_is_not_there_is_refused_before_anything_runs(no_options):
    with pytest.raises(ConfigError, match=r"my\.csv is neither a file nor .* one of reviews,"):
        read_options(SELF, ["--data", "my.csv"])
    assert "QKV_TEXTS" not in os.environ


def test_headings_are_printed_with_the_minutes_and_a_sentence(script, capsys):
    script.write_text(SCRIPT.replace("report(log, __name__, __file__)", ""))
    run_sections(script)
    said, *lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert said == "The text is in script.py and, with these results, in the notebooks."
    assert lines[0].startswith("━━ 1 First ━")
    assert lines[1:4] == [
        "3 minutes to read, 1 to run.",
        "A sentence says (cf. e.g. 2.1) what comes.",
        "── 1.1 A part of it",
    ]
    assert lines[4].startswith("(section 1 took 0 seconds")
    assert lines[5].startswith("━━ 7 Seventh ━")


def test_the_list_shows_sections_and_runs_nothing(script, capsys):
    with pytest.raises(SystemExit) as end:
        read_options(script, ["--list"])
    assert not end.value.code
    assert capsys.readouterr().out.splitlines() == [
        "1 First (3 minutes to read, 1 to run)",
        "    1.1 A part of it",
        "7 Seventh",
    ]

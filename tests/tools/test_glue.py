import importlib.util
from collections import Counter
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "glue.py"

SCRIPT = '''\
# %% [markdown]
# # A tutorial

# %%
import os

# %% [markdown]
# ## 1 Title
# Text.

# %%
import math

# %%
show_source(math.pi)

# %%
x = 1


def double(x):
    """Twice."""
    return 2 * x


y = double(x)
rows = []
for name in ("a", "b"):
    rows.append({"name": name})
columns = {"y": y}
show_table(
    "title",
    columns,
)
with figure("1") as axes:
    axes.plot(rows)
rows = [y]
assert rows

# %% tags=["script"]
print(y)
'''


def load():
    spec = importlib.util.spec_from_file_location("glue", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_are_counted_by_what_they_are_for(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tool = load()
    # Glue: the import, rows as they are first, columns, the table, the figure, and the last cell.
    assert tool.count(script) == {
        -1: Counter({"text": 1, "glue": 1}),
        1: Counter({"text": 2, "glue": 1 + 3 + 1 + 4 + 2 + 1, "concept": 11, "shown source": 1}),
    }
    tool.main([str(script)])
    assert "all" in capsys.readouterr().out

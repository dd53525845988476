"""The registry of named sets: every set describes itself, and CONTRIBUTING's example works."""

import gzip
import re
import sys
import types
from pathlib import Path

import pytest

from qkv.data import sets
from qkv.data.sets import load_set, named_sets
from qkv.errors import DataError

TASKS = ("answer", "classify", "generate", "recognize", "summarize", "tag", "translate")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("task", TASKS)
def test_each_set_describes_itself(task):
    found = named_sets(task)
    assert found
    for name, one in found.items():
        assert (one.name, one.task) == (name, task)
        assert len(set(one.splits)) == len(one.splits) >= 1
        assert re.search(r"\d.*;", one.summary) or "LICENCES" in one.summary
        assert len(one.summary) < 100


def test_every_module_is_registered_and_has_a_set():
    files = {path.stem for path in Path(sets.__file__).parent.glob("*.py")}
    assert files - {"__init__", "near_copies"} == {*sets.MODULES}
    assert sum(len(named_sets(task)) for task in TASKS) >= len(sets.MODULES)
    assert named_sets("paint") == {}
    with pytest.raises(DataError, match="no data set 'monet' to paint; expected none"):
        load_set("paint", "monet", "train")


def test_the_example_of_contributing_is_one_file(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "NamedSet(" in c]
    module = types.ModuleType("qkv.data.sets.my_set")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "qkv.data.sets.my_set", module)
    monkeypatch.setattr(sets, "MODULES", (*sets.MODULES, "my_set"))
    (tmp_path / "my_set").mkdir()
    (tmp_path / "my_set" / "test.tsv.gz").write_bytes(gzip.compress(b"Who?\tHUM\n"))
    assert load_set("classify", "my_set", "test", tmp_path) == [("Who?", "HUM")]
    with pytest.raises(DataError, match="no split 'dev' of my_set; expected train, test"):
        load_set("classify", "my_set", "dev", tmp_path)

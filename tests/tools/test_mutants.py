import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TOY = '''
def clip(x: int | None, *, low: int = 0) -> int:
    """Return x, at least 0 and below 7."""
    if x is not None and not x > 7:
        return max(low, x)
    raise ValueError(f"{x + 1}")
'''
TEST = """
import pytest
from qkv.toy import clip


def test_clip():
    assert clip(3) == 3
    with pytest.raises(ValueError, match="9"):
        clip(8)
"""


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TESTS", {"toy.py": "toy"})
    return module


def tree(folder, source):
    (folder / "src" / "qkv").mkdir(parents=True)
    (folder / "src" / "qkv" / "__init__.py").touch()
    (folder / "src" / "qkv" / "toy.py").write_text(source)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_toy.py").write_text(TEST)
    return folder


def test_each_change_of_a_function_is_one_mutant_that_outlives_renaming(tool, tmp_path):
    here = tree(tmp_path / "here", TOY)
    before = tree(tmp_path / "before", TOY.replace("clip", "cut").replace("low", "least"))
    drawn = tool.draw(60, 15, [here, before])
    assert sorted((one.name, one.text) for one in drawn) == [
        ("toy.py clip call 0", "max(low, x)"),
        ("toy.py clip comparison 0", "x is not None"),
        ("toy.py clip comparison 1", "x > 7"),
        ("toy.py clip integer 0", "0"),
        ("toy.py clip integer 1", "x is not None and (not x > 7)"),
        ("toy.py clip not 0", "not x > 7"),
        ("toy.py clip operator 0", "x is not None and (not x > 7)"),
    ]
    again = tool.draw(2, 15, [here, before])
    assert [one.name for one in again] == [one.name for one in drawn[:2]]


def test_code_that_was_rewritten_has_no_mutant_in_common(tool, tmp_path, capsys):
    here = tree(tmp_path / "here", TOY)
    before = tree(tmp_path / "before", TOY.replace("max(low, x)", "x if x > low else low"))
    assert "toy.py clip call 0" not in [one.name for one in tool.draw(60, 15, [here, before])]
    assert "7 mutants, 1 of them not in every tree" in capsys.readouterr().out


def test_a_mutant_is_killed_by_a_test_that_fails_and_survives_one_that_does_not(tool, tmp_path):
    here, copy = tree(tmp_path / "here", TOY), tree(tmp_path / "copy", TOY)
    found = {one.name.removeprefix("toy.py clip "): one for one in tool.mutants("toy.py", here)}
    killed = tool.test(found["not 0"], here, copy, limit=60)
    assert killed["verdict"] == "killed"
    assert killed["by"] == "tests/test_toy.py::test_clip"
    assert tool.test(found["comparison 1"], here, copy, limit=60)["verdict"] == "survived"
    assert tool.test(found["not 0"], here, copy, limit=0.01)["verdict"] == "timed out"
    assert (copy / "src" / "qkv" / "toy.py").read_text() == TOY

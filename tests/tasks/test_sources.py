import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from qkv.errors import ConfigError
from qkv.tasks.sources import NamedSets, checksum, limited

SETS = NamedSets({"birds": ("train", "validation", "test"), "fish": ("train", "deep")})


@dataclass(kw_only=True)
class Data:
    train: str | tuple[str, ...] = "birds"
    validation: str | None = None
    test: str | None = None
    validation_share: float = 0.1
    limit: int | None = None


def test_sets_and_their_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SETS.has("birds")
    assert SETS.has("fish:deep")
    assert not SETS.has("birds.csv")
    assert SETS.split("birds", "test") == ("birds", "test")
    assert SETS.split("birds:train", "test") == ("birds", "train")
    assert SETS.full_name("birds", "test") == "birds:test"
    assert SETS.full_name("fish:deep", "test") == "fish:deep"
    assert SETS.full_name("C:mine.csv", "test") == "C:mine.csv"
    assert SETS.own("birds", "test") == "birds:test"
    for source in ("fish", "birds:train", "mine.csv", ""):
        assert SETS.own(source, "test") is None


def test_what_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("birds").mkdir()
    assert SETS.has("birds")
    images = NamedSets(SETS.parts, comes_first=Path.is_dir)
    assert not images.has("birds")
    assert images.full_name("birds", "train") == "birds"
    assert images.own("birds", "test") is None
    Path("fish").touch()
    assert not SETS.has("fish")
    assert images.has("fish")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "data.limit = 0; expected at least 1 of the texts, or null"),
        ({"validation_share": 1.0}, "data.validation_share = 1.0; expected between 0 and 1"),
        ({"validation": "birds:train"}, "data names birds:train twice; expected other texts"),
        ({"train": "a.csv", "test": "a.csv"}, "data names a.csv twice"),
        ({"validation": "fish:deep", "test": "fish:deep"}, "data names fish:deep twice"),
        ({"train": ("fish", "birds", "fish:train")}, "data names fish:train twice"),
    ],
)
def test_what_a_recipe_must_not_say(given, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        SETS.check(Data(**given), "texts")


@pytest.mark.parametrize(
    "given",
    [{"validation": "birds"}, {"train": ("fish", "birds:test"), "test": "fish:deep"}, {"limit": 1}],
)
def test_what_a_recipe_may_say(given):
    SETS.check(Data(**given), "texts")


def test_examples_are_drawn_and_stay_in_order():
    whole = list(range(97))
    assert limited(whole, None, 0) is whole
    assert limited(whole, 97, 0) is whole
    few = limited(whole, 13, 5)
    assert len(few) == 13
    assert list(few) == sorted(set(few))
    assert few == limited(whole, 13, 5) != limited(whole, 13, 6)


def test_the_checksum_is_of_the_content():
    content = [["a", "b"], [], ("c",)]
    assert checksum(content) == checksum([["a", "b"], [], ["c"]])  # as it was read back
    assert checksum(content) != checksum([["a"], ["b"], ["c"]])
    assert re.fullmatch("[0-9a-f]{16}", checksum(content))

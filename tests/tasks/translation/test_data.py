"""What a recipe may say of its sentences: files, named sets, parts, limits."""

import csv
import gzip

import pytest

from qkv.errors import ConfigError, DataError
from qkv.tasks.translation.data import Translations, evenly, read_translations

ROWS = [(f"one {i}", f"eins {i}") for i in range(53)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "my.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("en", "de"), *ROWS])
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A set of sets: Multi30k, with a pair for each part."""
    for part in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de", "cs"):
            path = tmp_path / "sets" / "multi30k" / f"{part}.{language}.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(f"{part} {language}\n".encode()))
    return tmp_path / "sets"


def test_a_share_is_held_out_with_all_translations_of_a_sentence(table):
    parts = Translations(train=table, validation_share=0.2).parts()
    assert len(parts.validation) == 11
    assert sorted([*parts.train, *parts.validation]) == sorted(ROWS)
    assert parts.test == []
    assert parts == Translations(train=table, validation_share=0.2).parts()


def test_a_named_set_has_its_own_parts(folder):
    data = Translations(train="multi30k", source="de", target="cs", data_dir=folder)
    assert data.parts() == (
        [("train de", "train cs")],
        [("val de", "val cs")],
        [("test_2016_flickr de", "test_2016_flickr cs")],
    )
    assert read_translations("multi30k:validation", "test", data_dir=folder) == [
        ("val en", "val de")
    ]


def test_a_part_by_name_brings_no_others(folder, table):
    data = Translations(train="multi30k:train", validation=table, data_dir=folder)
    assert (data.parts().validation, data.parts().test) == (ROWS, [])


def test_two_files_are_aligned_by_line(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo, three\n", encoding="utf-8")
    (tmp_path / "a.de").write_text("eins\nzwei, drei\n", encoding="utf-8")
    names = f"{tmp_path / 'a.en'},{tmp_path / 'a.de'}"
    assert read_translations(names, "train") == [("one", "eins"), ("two, three", "zwei, drei")]
    (tmp_path / "a.de").write_text("eins\n \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.de, line 2, is empty: expected a sentence"):
        read_translations(names, "train")
    with pytest.raises(DataError, match="names 3 files; expected two of one sentence a line"):
        read_translations(f"{names},c", "train")


def test_a_limit_takes_pairs_from_everywhere_the_same_each_time(table):
    some = Translations(train=table, limit=17).parts().train
    assert len(some) == 17
    assert some == sorted(some, key=ROWS.index)
    assert some == Translations(train=table, limit=17).parts().train
    assert some != Translations(train=table, limit=17, seed=1).parts().train
    assert evenly(ROWS, 5) == [ROWS[i] for i in (0, 10, 21, 31, 42)]
    assert evenly(ROWS, None) == evenly(ROWS, 99) == ROWS


def test_the_checksum_tells_other_sentences_apart(table):
    sums = [Translations(train=table, seed=seed, limit=17).parts().checksum for seed in (0, 0, 1)]
    assert sums[0] == sums[1] != sums[2]


def test_unknown_columns_are_refused_by_name(table):
    with pytest.raises(DataError, match=r"has no column 'fr'; its columns are 'en', 'de'"):
        Translations(train=table, target="fr").parts()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limit": 0}, "data.limit = 0; expected at least 1"),
        ({"validation_limit": 0}, "data.validation_limit = 0; expected at least 1"),
        ({"max_length": 0}, "data.max_length = 0; expected at least 1"),
        ({"validation_share": 1.0}, "data.validation_share = 1.0; expected between 0 and 1"),
        ({"train": "tatoeba:test", "test": "tatoeba"}, "data names tatoeba:test twice"),
        ({"validation": "a.csv", "test": "a.csv"}, "data names a.csv twice"),
    ],
)
def test_numbers_out_of_range_and_one_source_for_two_parts(fields, words):
    with pytest.raises(ConfigError, match=words):
        Translations(**fields)

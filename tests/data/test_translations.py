"""Named sets of translations: sizes, languages, parts that share no sentence, broken files."""

import zipfile

import pytest

from qkv.data.sets import load_set, named_sets
from qkv.data.sets.tatoeba import linked, plain, tatoeba
from qkv.errors import DataError


def write_tatoeba(folder, text):
    (folder / "tatoeba_deu_eng").mkdir()
    path = folder / "tatoeba_deu_eng" / "deu-eng.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_about.txt", "see there")
        archive.writestr("deu.txt", text)
    return path


def test_sentences_are_linked_over_any_number_of_translations():
    pairs = [("b", "x"), ("c", "y"), ("b", "z"), ("a", "z"), ("d", "y"), ("e", "w")]
    assert linked(pairs) == ["a", "c", "a", "a", "c", "e"]
    assert linked(pairs[::-1]) == ["e", "c", "a", "a", "c", "a"]
    chain = [(f"s{i}", f"t{i // 2}") for i in range(0, 7)] + [("s1", "t1"), ("s3", "t2")]
    assert {*linked(chain[:-2])} == {"s0", "s2", "s4", "s6"}
    assert {*linked(chain)} == {"s0", "s6"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Don't go!", "do not go"),
        ("I’m here.", "I am here!"),
        ("Wir, die...", "wir die"),
        ("We've won", "WE HAVE WON"),
    ],
)
def test_near_copies_are_plainly_the_same(one, other):
    assert len({*plain([one, other])}) == 1


def test_signs_alone_are_not_all_the_same():
    assert len({*plain(["?!", "..."])}) == 2


def test_parts_of_tatoeba_share_no_sentence(tmp_path):
    lines = [f"Sentence {i}.\tSatz {i}." for i in range(2_000)]
    lines += [f"sentence {i}!\tEin Satz {i}." for i in range(0, 2_000, 3)]
    lines += [f"Another {i}.\tEin Satz {i}." for i in range(0, 2_000, 7)]
    write_tatoeba(tmp_path, "\n".join(lines) + "\n")
    parts = tatoeba(tmp_path)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(
        tuple(line.split("\t")) for line in lines
    )
    assert len(parts["train"]) > 0.9 * len(lines)
    assert len(parts["validation"]) > 5
    assert len(parts["test"]) > 5
    for side in (0, 1):
        plains = [{*plain([pair[side] for pair in part])} for part in parts.values()]
        assert sum(map(len, plains)) == len(set.union(*plains))


def test_the_real_tatoeba(shared_data):
    parts = tatoeba(shared_data)
    assert {split: len(part) for split, part in parts.items()} == TATOEBA
    assert sum(TATOEBA.values()) == 169_813
    assert parts["train"][0] == ("Hi.", "Hallo!")
    for side in (0, 1):
        plains = [{*plain([pair[side] for pair in part])} for part in parts.values()]
        assert sum(map(len, plains)) == len(set.union(*plains))


TATOEBA = {"train": 166_369, "validation": 1_674, "test": 1_770}


def test_the_real_set_has_its_published_size(shared_data):
    pairs = load_set("translate", "multi30k", "test", data_dir=shared_data)
    assert len(pairs) == 1_000
    assert all(source.strip() and target.strip() for source, target in pairs)


def test_languages_may_be_turned_round(tmp_path):
    write_tatoeba(tmp_path, "Hi.\tHallo!\r\nGo.\tGeh.")
    pairs = [pair for part in tatoeba(tmp_path).values() for pair in part]
    assert sorted(pairs) == [("Go.", "Geh."), ("Hi.", "Hallo!")]
    turned = [
        pair
        for split in named_sets("translate")["tatoeba"].splits
        for pair in load_set(
            "translate", "tatoeba", split, tmp_path, {"source": "de", "target": "en"}
        )
    ]
    assert sorted(turned) == [("Geh.", "Go."), ("Hallo!", "Hi.")]


@pytest.mark.parametrize(("name", "known"), [("multi30k", "en, de, cs"), ("tatoeba", "en, de")])
@pytest.mark.parametrize("languages", [("en", "fr"), ("en", "en"), ("xx", "de")])
def test_a_language_that_is_not_there_is_refused(tmp_path, name, known, languages):
    source, target = languages
    with pytest.raises(
        DataError, match=f"no {name} from '{source}' to '{target}'; expected two of {known}"
    ):
        load_set("translate", name, "train", tmp_path, {"source": source, "target": target})


def test_broken_files_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"no data set 'wmt' to translate; expected multi30k, tatoeba, everyday$"
    ):
        load_set("translate", "wmt", "train")
    with pytest.raises(DataError, match="no split 'dev' of tatoeba; expected train, validation"):
        load_set("translate", "tatoeba", "dev")
    path = write_tatoeba(tmp_path, "Hi.\tHallo!\nGo.\n")
    with pytest.raises(DataError, match=r"deu-eng\.zip, deu\.txt, line 2, has 1 fields, expected"):
        tatoeba(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cannot read deu\.txt in .*deu-eng\.zip: .*truncated"):
        tatoeba(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fra.txt", "Hi.\tSalut!")
    with pytest.raises(DataError, match=r"cannot read deu\.txt in .*no item named 'deu.txt'"):
        tatoeba(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read deu\.txt in .*No such file"):
        tatoeba(tmp_path)

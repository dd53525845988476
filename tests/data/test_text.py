"""Corpora on disk: what is read, and what each broken file is told to be."""

import gzip

import pytest

from qkv.data.sets import load_set
from qkv.data.text import find_data, read_lines, read_parallel, read_tsv
from qkv.errors import DataError


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["text", "text.gz"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\n\nb\n", ["a", "", "b"]),
        ("a\n\n", ["a", ""]),
        ("\ufeffa\n", ["a"]),
        (
            "a\u2028b\x85c\x0bd\x0ce\x1cf\rg\nh\n",
            ["a\u2028b\x85c\x0bd\x0ce\x1cf\rg", "h"],
        ),
    ],
)
def test_only_newlines_end_a_line(tmp_path, name, content, lines):
    assert read_lines(write(tmp_path / name, content.encode())) == lines


def test_pairs_are_aligned_by_line(tmp_path):
    source = write(tmp_path / "train.en.gz", "a\u2028b\nc\n".encode())
    target = write(tmp_path / "train.de", "ä\nö".encode())
    assert read_parallel(source, target) == [("a\u2028b", "ä"), ("c", "ö")]


def test_files_may_be_in_another_encoding(tmp_path):
    source = write(tmp_path / "de.gz", "Straße\n".encode("latin-1"))
    target = write(tmp_path / "en", b"street\n")
    assert read_lines(source, "latin-1") == ["Straße"]
    assert read_parallel(source, target, "latin-1") == [("Straße", "street")]


def test_different_numbers_of_lines_raise(tmp_path):
    source, target = write(tmp_path / "en", b"a\nb\n"), write(tmp_path / "de", b"a\nb\nc\n")
    with pytest.raises(DataError, match=r"en has 2 lines and .*de has 3: .*different splits"):
        read_parallel(source, target)


@pytest.mark.parametrize("name", ["text", "text.gz"])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_raises(tmp_path, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty: expected at least one line"):
        read_lines(write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_bytes_that_are_not_utf8_are_located(tmp_path, name):
    path = write(tmp_path / name, "ä\nb\nStraße".encode() + "ß".encode("latin-1") + b"\n")
    with pytest.raises(
        DataError, match=rf"{name} is not utf-8: byte 0xdf at offset 12, line 3 .*latin-1"
    ):
        read_lines(path)


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*nothing\.gz: .*is the path right"):
        read_lines(tmp_path / "nothing.gz")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b"plain", lambda b: b[:12] + b"xxxx" + b[16:]]
)
def test_a_broken_gzip_file_raises(tmp_path, damage):
    path = tmp_path / "text.gz"
    path.write_bytes(damage(gzip.compress(b"some text " * 99)))
    with pytest.raises(DataError, match=r"text\.gz is not a complete gzip file: "):
        read_lines(path)


def test_columns_of_a_table_are_chosen_by_number(tmp_path):
    path = write(tmp_path / "table.tsv", b'a\t"b\tc\n1\t2\t3\n')
    assert read_tsv(path) == [("a", '"b'), ("1", "2")]
    assert read_tsv(path, columns=(2, 0)) == [("c", "a"), ("3", "1")]


def test_a_line_with_too_few_columns_is_named(tmp_path):
    path = write(tmp_path / "table.tsv", b"a\tb\nc d\n")
    with pytest.raises(DataError, match=r"table\.tsv, line 2, has 1 columns, expected 2 or more"):
        read_tsv(path)


def test_named_data_is_found_by_argument_before_environment(tmp_path, monkeypatch):
    (tmp_path / "one" / "set").mkdir(parents=True)
    (tmp_path / "two" / "set").mkdir(parents=True)
    monkeypatch.setenv("QKV_DATA", str(tmp_path / "one"))
    assert find_data("set") == tmp_path / "one" / "set"
    assert find_data("set", tmp_path / "two") == tmp_path / "two" / "set"


def test_missing_data_says_where_it_was_looked_for(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"no data set 'set': looked for the folder {tmp_path}"):
        find_data("set", tmp_path)
    monkeypatch.delenv("QKV_DATA", raising=False)
    with pytest.raises(DataError, match=r"no folder to look .*--data-dir FOLDER .*QKV_DATA"):
        find_data("set")


def test_multi30k_joins_the_files_of_two_languages(tmp_path):
    (tmp_path / "multi30k").mkdir()
    for name, text in {"val.cs": "c", "val.de": "d", "test_2016_flickr.en": "e"}.items():
        write(tmp_path / "multi30k" / f"{name}.gz", text.encode())
    columns = {"source": "de", "target": "cs"}
    assert load_set("translate", "multi30k", "validation", tmp_path, columns) == [("d", "c")]
    with pytest.raises(DataError, match=r"cannot read .*test_2016_flickr\.de\.gz"):
        load_set("translate", "multi30k", "test", tmp_path)


@pytest.mark.parametrize(
    ("split", "rows"), [("train", 29_000), ("validation", 1_014), ("test", 1_000)]
)
@pytest.mark.parametrize("language", ["de", "cs"])
def test_the_real_multi30k_has_its_published_size(shared_data, split, rows, language):
    columns = {"source": "en", "target": language}
    pairs = load_set("translate", "multi30k", split, shared_data, columns)
    assert len(pairs) == rows
    assert all(source and target for source, target in pairs)

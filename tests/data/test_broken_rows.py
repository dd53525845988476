"""One broken row loses one row: every other row of the table comes out as it is."""

import csv
import gzip
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from tests.data.test_tables import COLUMNS, table

from qkv.data import text as data_text
from qkv.data.archives import read_members
from qkv.data.delimited import read_delimited
from qkv.data.labels import Labels
from qkv.data.questions import read_squad
from qkv.data.rows import good_rows
from qkv.data.tables import TableLayout, read_table
from qkv.data.text import decode, read_content
from qkv.errors import DataError

# What stands in the place of a row, as files have it that nobody meant to be csv.
BROKEN_CSV = {
    "a quote that is not closed": '"she said, good\n',
    "a quote that is not closed behind a comma": 'bad,"she said\n',
    "a quote inside": '"she said "no" to me",good\n',
    "one quote inside": '"5" disk",good\n',
    "a stray quote at the end": '"she said"",good\n',
    "a lone return": "she\rsaid,good\n",
    "too few": "she said\n",
    "too many": "she said, no,good\n",
    "empty": ",good\n",
    "two lines with a quote inside": '"she said "no, way"\nand left",good\n',
    "three lines with one quote inside": '"she "no, and\nthen she went home\nand slept",good\n',
    "binary": '\x01"\x02,"\n',
}
BROKEN_JSON = {
    "nested": "[" * 100_000,
    "nested inside": '{"text": ' + "[" * 50_000 + "]" * 50_000 + ', "label": "good"}',
    "objects": '{"a":' * 30_000,
    "cut": '{"text": "she sa',
    "a list": '["text"]',
    "a large number": '{"text": "a", "label": ' + "9" * 5_000 + "}",
    "no text": '{"text": {"a": "' + "b" * 9_000 + '"}, "label": "good"}',
    "half a pair": '{"text": "\\ud800", "label": "good"}',
    "other names": "{" + ", ".join(f'"name {i}": {i}' for i in range(3_000)) + "}",
}


def rows_of(rng, n):
    """Texts as people write them: with quotes, commas, line ends and nothing at all odd."""
    tricky = ["plain", "with, comma", 'a "quoted" word', "two\nlines", 'both, "and"\nmore', '"']
    return [(f"{tricky[rng.integers(len(tricky))]} {i}", f"label {i % 3}") for i in range(n)]


def check(tmp_path, lines, good, n_broken, name="a.csv"):
    path = tmp_path / name
    path.write_bytes("".join(lines).encode("utf-8", "surrogatepass"))
    found = read_table(path, COLUMNS, keep_bad_rows=True)
    whole = [(row.fields["text"], row.fields["label"]) for row in found if not row.problem]
    assert whole == good
    problems = [row.problem for row in found if row.problem]
    assert len(problems) == n_broken
    assert max(map(len, problems)) < 1_500
    return problems


@pytest.mark.parametrize("kind", BROKEN_CSV)
@pytest.mark.parametrize("plain", [True, False])
def test_of_a_thousand_rows_of_csv_of_which_three_are_broken_997_come_out(tmp_path, kind, plain):
    rng = np.random.default_rng(3)
    good = [(f"text {i}", "good") for i in range(1_000)] if plain else rows_of(rng, 1_000)
    lines = [table([row]) for row in good]
    at = [7, 500, 990]
    for i in at:
        lines[i] = BROKEN_CSV[kind]
    kept = [row for i, row in enumerate(good) if i not in at]
    check(tmp_path, ["text,label\n", *lines], kept, 3)


@pytest.mark.parametrize("seed", range(30))
def test_broken_rows_of_many_kinds_and_rows_of_many_lines(tmp_path, seed):
    rng = np.random.default_rng(seed)
    good = rows_of(rng, 101)
    lines = [table([row]) for row in good]
    kinds = list(BROKEN_CSV.values())
    # Some way apart: of two quotes that are not closed in neighboring rows nobody knows.
    at = rng.choice(np.arange(2, 97, 7), size=5, replace=False)
    for i in at:
        lines[i] = kinds[rng.integers(len(kinds))]
    kept = [row for i, row in enumerate(good) if i not in at]
    check(tmp_path, ["text,label\n", *lines], kept, 5)


@pytest.mark.parametrize("row", ['"a"b %d",c\n', '"a %d,c\n', '"5" disk %d",c\n'])
def test_broken_rows_in_a_row_are_counted_one_by_one(tmp_path, row):
    lines = [row % i for i in range(7)]
    problems = check(
        tmp_path, ["text,label\n", "a,b\n", *lines, "c,d\n"], [("a", "b"), ("c", "d")], 7
    )
    assert [f"begins at line {line}:" in problem for line, problem in enumerate(problems, 3)] == [
        True
    ] * 7


def test_broken_rows_at_both_ends_and_without_a_header(tmp_path):
    lines = ['"a "b" c",0\n', "x,1\n", "y,2\n", '"z,3']
    names, rows = read_delimited(tmp_path, iter(lines), separator=",", quoting=True, header=False)
    rows = list(rows)
    assert names == ["0", "1"]
    assert [line for line, _ in rows] == [1, 2, 3, 4]
    assert [fields for _, fields in rows[1:3]] == [["x", "1"], ["y", "2"]]
    assert all(isinstance(rows[i][1], DataError) for i in (0, 3))
    with pytest.raises(DataError, match="begins at line 1: unexpected end of data"):
        read_delimited(tmp_path, iter(['"a\n']), separator=",", quoting=True, header=False)
    lines = iter(['"a"b,c\n', "d,e\n"])
    with pytest.raises(DataError, match="begins at line 1: ',' expected after"):
        read_delimited(tmp_path, lines, separator=",", quoting=True, header=True)


@pytest.mark.parametrize("kind", BROKEN_JSON)
def test_of_a_thousand_lines_of_json_of_which_three_are_broken_997_come_out(tmp_path, kind):
    good = [(f"text {i}", f"label {i % 3}") for i in range(1_000)]
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in good]
    at = [0, 500, 999]
    for i in at:
        lines[i] = BROKEN_JSON[kind] + "\n"
    kept = [row for i, row in enumerate(good) if i not in at]
    check(tmp_path, lines, kept, 3, "a.jsonl")


LONG = "long " * 20_000
READERS = {
    "a label": lambda path: Labels(["a", "b"]).number(LONG, "x"),
    "a header": lambda path: read_table(path("a.csv", f"{LONG},b\n1,2\n"), COLUMNS),
    "many names": lambda path: read_table(path("a.csv", "x," * 9_000 + "\n" + ",\n"), COLUMNS),
    "a column": lambda path: read_table(path("a.csv", "a,b\n1,2\n"), {"text": LONG}),
    "an id of SQuAD": lambda path: read_squad(path("a.json", squad(id=[LONG]))),
    "an answer of SQuAD": lambda path: read_squad(
        path("a.json", squad(answers=[{"text": LONG, "answer_start": 3}]))
    ),
    "nested SQuAD": lambda path: read_squad(path("a.json", "[" * 100_000)),
    "a question of SQuAD": lambda path: read_squad(path("a.json", squad(question=[LONG]))),
}


def squad(**fields):
    question = {"id": "1", "question": "who?", "answers": []} | fields
    return json.dumps({"data": [{"paragraphs": [{"context": "a man", "qas": [question]}]}]})


@pytest.mark.parametrize("name", READERS)
def test_a_message_repeats_little_of_what_is_bad(tmp_path, name):
    def path(file, content):
        (tmp_path / file).write_text(content)
        return tmp_path / file

    with pytest.raises(DataError) as caught:
        READERS[name](path)
    assert len(str(caught.value)) < 1_500


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_blank_lines_of_a_table_are_no_rows(tmp_path, suffix):
    separator = "," if suffix == ".csv" else "\t"
    lines = ["", "text,label", "", "a,b", "\r", "", "c,d", ""]
    table = tmp_path / f"t{suffix}"
    table.write_text("\n".join(lines).replace(",", separator), encoding="utf-8", newline="")
    rows = list(read_table(table, {"text": "text", "label": "label"}))
    assert [(row.line, row.fields) for row in rows] == [
        (4, {"text": "a", "label": "b"}),
        (7, {"text": "c", "label": "d"}),
    ]


def test_a_blank_line_of_json_lines_is_no_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a", "label": 1}\n \t\r\n\n{"text": "b", "label": 2}\n\n')
    assert [(row.line, row.fields["text"]) for row in read_table(path, COLUMNS)] == [
        (2, "a"),
        (5, "b"),
    ]


@pytest.mark.parametrize("quoted", [True, False])
def test_a_text_of_any_length_is_read(tmp_path, quoted):
    text = "word " * 300_007
    path = tmp_path / "a.csv"
    field = f'"{text}"' if quoted else text
    path.write_text(f"text,label\n{field},good\nb,bad\n")
    found = read_table(path, COLUMNS)
    assert [row.fields["text"] for row in found] == [text, "b"]


def test_a_limit_that_someone_has_raised_is_left(tmp_path, monkeypatch):
    before = csv.field_size_limit(2**31 - 1)
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    read_table(tmp_path / "a.csv", COLUMNS)
    assert csv.field_size_limit() == 2**31 - 1
    csv.field_size_limit(before)


def test_problems_are_listed_and_their_rows_left_out(tmp_path):
    path, broken = tmp_path / "a.csv", []
    path.write_text('text,label\na,b\n"c"d,e\nf,\ng,h\n')
    found = good_rows(path, read_table(path, COLUMNS, keep_bad_rows=True), broken)
    assert [row.fields["text"] for row in found] == ["a", "g"]
    assert [problem.partition("line ")[2][:1] for problem in broken] == ["3", "4"]
    path.write_text("text,label\n,b\n")
    with pytest.raises(DataError, match=r"line 2: the text is empty"):
        good_rows(path, read_table(path, COLUMNS, keep_bad_rows=True), [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_mark_of_byte_order_says_the_encoding(tmp_path, encoding, name):
    text = "text,label\nschön – 😀,gut\n"
    if name == "a.jsonl":
        text = '{"text": "schön – 😀", "label": "gut"}\n'
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    (row,) = read_table(tmp_path / name, COLUMNS)
    assert row.fields == {"text": "schön – 😀", "label": "gut"}


def test_utf_16_without_a_mark_is_refused_with_the_reason(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\na,b\n".encode("utf-16-le"))
    message = r"a\.csv is not utf-8: 15 of its first 30 bytes are 0 \(UTF-16 without a byte-order"
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.csv", COLUMNS)
    assert read_table(tmp_path / "a.csv", COLUMNS, TableLayout(encoding="utf-16-le"))
    with pytest.raises(DataError, match="is not utf-16: "):
        decode("text".encode("utf-16") + b"x", "a.txt", tolerant=True)


def test_a_table_that_is_a_bomb_is_refused_and_never_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"a" * 50_000_000 + b",b\n"))
    monkeypatch.setattr(data_text, "LARGEST", 1_000_003)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.csv\.gz has more than 1,000,003 bytes when decomp"):
        read_table(path, COLUMNS)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    monkeypatch.setattr(data_text, "LARGEST", 50_000_014)
    assert len(read_content(path)) == 50_000_014


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_a_file_in_a_tar_that_is_a_bomb_is_refused(tmp_path, monkeypatch, packing):
    path, member = tmp_path / f"a.tar{packing}", tmp_path / "member"
    member.write_bytes(b"a" * 1_000_003)
    (tmp_path / "small").write_bytes(b"b")
    with tarfile.open(path, f"w:{packing.removeprefix('.')}") as archive:
        archive.add(tmp_path / "small", "small")
        archive.add(member, "member")
    assert [len(content) for _, content in read_members(path)] == [1, 1_000_003]
    monkeypatch.setattr(data_text, "LARGEST", 1_000_002)
    with pytest.raises(DataError, match=r"member in .*a\.tar.* has more than 1,000,002 bytes when"):
        list(read_members(path))


def test_a_file_that_does_not_fit_the_memory_is_an_error_of_ours(tmp_path, monkeypatch):
    def refuse(*args):
        raise MemoryError

    (tmp_path / "a.gz").write_bytes(b"")
    monkeypatch.setattr(data_text, "_Bounded", refuse)
    with pytest.raises(DataError, match=r"a\.gz does not fit into memory"):
        read_content(tmp_path / "a.gz")

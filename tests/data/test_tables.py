"""Tables of texts: every format gives the same rows, and each broken file is told what it is."""

import csv
import gzip
import io
import json
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.data.rows import Row, report_problems
from qkv.data.tables import TableLayout, iterate_table, read_table, read_text
from qkv.errors import ConfigError, DataError, MissingDependencyError

COLUMNS = {"text": "text", "label": "label"}
TRICKY = ['a "b", c;\td', "x\u2028y\x85z", " ä ß ", '"', "line\nbreak", "back\\slash, 'single'"]


def write(path, content, encoding="utf-8"):
    content = content if isinstance(content, bytes) else content.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def table(rows, separator=",", end="\r\n"):
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=end).writerows(rows)
    return out.getvalue()


def packed(rows, kind):
    """The rows of (text, label) as the bytes of a file, with one column more than is asked."""
    lines = [("text", "n", "label"), *((text, i, label) for i, (text, label) in enumerate(rows))]
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        out = io.BytesIO()
        columns = {name: [row[i] for row in lines[1:]] for i, name in enumerate(lines[0])}
        parquet.write_table(pyarrow.table(columns), out)
        return out.getvalue()
    if kind == "jsonl":
        objects = [dict(zip(lines[0], row, strict=True)) for row in lines[1:]]
        return "".join(json.dumps(row) + "\n" for row in objects).encode()
    return table(lines, "," if kind == "csv" else "\t").encode()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.csv.gz", "csv"),
        ("A.TSV", "tsv"),
        ("a.jsonl", "jsonl"),
        ("a.json.gz", "jsonl"),
        ("a.parquet", "parquet"),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path, name, kind):
    rows = [(text, str(i)) for i, text in enumerate(TRICKY)]
    path = write(tmp_path / name, packed(rows, kind))
    found = read_table(path, COLUMNS, TableLayout(quoting=True if kind == "tsv" else None))
    assert [(row.fields["text"], row.fields["label"]) for row in found] == rows
    # A header is a line, and so is the second half of the fifth text.
    lines = [2, 3, 4, 5, 6, 8] if kind in ("csv", "tsv") else [1, 2, 3, 4, 5, 6]
    assert [row.line for row in found] == lines


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=7))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write(path, table([("text", "label"), *rows]))
    found = read_table(path, {"text": "text", "second": "label"})
    assert [(row.fields["text"], row.fields["second"]) for row in found] == rows


def test_columns_by_number_where_there_is_no_header(tmp_path):
    path = write(tmp_path / "a.tsv", 'one "long" film\t0\r\n"\t1\r\n\r\n\n')
    found = read_table(path, {"text": 0, "label": "1"}, TableLayout(header=False))
    assert found == [
        Row(1, {"text": 'one "long" film', "label": "0"}),
        Row(2, {"text": '"', "label": "1"}),
    ]


def test_the_layout_is_an_argument(tmp_path):
    path = write(tmp_path / "a.txt", "text;label\nschön;gut\n", "latin-1")
    layout = TableLayout(kind="csv", separator=";", quoting=False, encoding="latin-1")
    assert read_table(path, COLUMNS, layout) == [Row(2, {"text": "schön", "label": "gut"})]
    path = write(tmp_path / "b.csv", "text,label\nschön,gut\n", "utf-16")
    found = read_table(path, COLUMNS, TableLayout(encoding="utf-16"))
    assert found[0].fields["text"] == "schön"


def test_a_mark_of_byte_order_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "a.csv", "\ufefftext,label\na,b\n")
    assert read_table(path, COLUMNS) == [Row(2, {"text": "a", "label": "b"})]


def test_numbers_are_texts(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 3}\n{"text": 5, "label": 7}')
    assert [row.fields["label"] for row in read_table(path, COLUMNS)] == ["3", "7"]


BROKEN = {
    "no bytes": ("a.csv", "", r"a\.csv is empty; expected text"),
    "blank": ("a.jsonl", "\n \n", r"a\.jsonl is empty"),
    "only a header": ("a.csv", "text,label\n\n", r"a\.csv has only a header"),
    "another name": (
        "a.csv",
        "review,label\na,b\n",
        r"a\.csv has no column 'text'; its columns are 'review', 'label' \(.*header = True right",
    ),
    "another separator": (
        "a.csv",
        "text|label\na|b\n",
        r"no column 'text'; its columns are 'text\|label' \(is ',' the separator",
    ),
    "a name twice": ("a.csv", "text,label,text\na,b,c\n", r"has 2 columns 'text'; its columns are"),
    "too few": (
        "a.csv",
        'text,label\n"a\nb",c\nd\n',
        r"line 4, has 1 fields, expected 2 as in line 1 \(is there a ',' inside",
    ),
    "too many": ("a.tsv", "text\tlabel\na\tb\tc\n", r"line 2, has 3 fields, expected 2"),
    "no text": ("a.csv", "text,label\na,b\n  ,b\n", r"line 3: the text is empty \('  '\)"),
    "no label": ("a.csv", "text,label\na,\n", r"line 2: the label is empty \(''\).*hidden"),
    "an open quote": (
        "a.csv",
        'text,label\na,b\n"c,d\ne,f\n',
        r"a\.csv, in the row that begins at line 3: unexpected end .*quoting = False",
    ),
    "a quote inside": ("a.csv", 'text,label\n"a"b,c\n', r"begins at line 2: ',' expected after"),
    "a lone return": ("a.csv", "text,label\na\rb,c\n", r"begins at line 2: new-line character"),
    "null": ("a.jsonl", '{"text": "a", "label": null}', r"line 1: the label is empty \(None\)"),
    "a list": ("a.jsonl", '{"text": ["a"], "label": 1}', r"line 1: the text is a list, \['a'\]"),
    "a share": ("a.jsonl", '{"text": "a", "label": 0.5}', r"line 1: the label is a float, 0.5"),
    "a key less": (
        "a.jsonl",
        '{"text": "a", "label": "b"}\n{"text": "c"}\n',
        r"a\.jsonl, line 2, has no column 'label'; its columns are 'text'",
    ),
    "one JSON list": ("a.json", '[{"text": "a"}]', r"line 1, is a JSON list, expected an object"),
    "one object": ("a.json", '{"text": "a",\n"label": 1}', r"line 1, is not JSON: .*several lines"),
    "no parquet": ("a.parquet", "PAR1 or not", r"a\.parquet is not a complete parquet file: "),
    "not UTF-8": (
        "a.csv",
        "text,label\na,b\nß,c\n".encode("latin-1"),
        r"a\.csv, line 3: the text has invalid characters: .*latin-1",
    ),
    "a cut archive": ("a.csv.gz", None, r"a\.csv\.gz is not a complete gzip file"),
    "an unknown kind": (
        "a.doc",
        "text,label",
        r"a\.doc does not tell its format.*\.csv, \.tsv, \.jsonl",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_named_with_its_line(tmp_path, name):
    file, content, message = BROKEN[name]
    path = tmp_path / file
    if content is None:
        path.write_bytes(gzip.compress(b"text,label\na,b\n" * 99)[:-9])
    else:
        write(path, content)
    with pytest.raises(DataError, match=message):
        read_table(path, COLUMNS)


def test_a_file_without_a_known_name_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "reviews", "text,label\na,b\n")
    with pytest.raises(DataError, match="the name of reviews does not tell its format"):
        read_table("reviews", COLUMNS)
    assert read_table("reviews", COLUMNS, TableLayout(kind="csv"))[0].fields["text"] == "a"


@pytest.mark.parametrize("file", ["b.csv", "b.parquet", "c/d/e.txt"])
def test_a_missing_file_is_said_to_be_missing(tmp_path, file):
    with pytest.raises(DataError, match=rf"cannot read .*{file}.*is the path right"):
        read_table(tmp_path / file, COLUMNS)


def test_a_column_of_a_headless_table_is_a_number(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n")
    with pytest.raises(DataError, match=r"no column 'text'; .*'0', '1' .*header = False right"):
        read_table(path, COLUMNS, TableLayout(header=False))


@pytest.mark.parametrize(
    ("file", "layout"),
    [
        ("a.jsonl", {"header": False}),
        ("a.parquet", {"separator": ";"}),
        ("a.parquet", {"encoding": "latin-1"}),
        ("a.csv", {"kind": "jsonl", "quoting": True}),
    ],
)
def test_what_a_format_has_not_cannot_be_asked_for(tmp_path, file, layout):
    with pytest.raises(ConfigError, match=r"TableLayout\(.*expected a csv or tsv, or nothing but"):
        read_table(tmp_path / file, COLUMNS, TableLayout(**layout))


def test_an_impossible_layout_is_refused():
    with pytest.raises(ConfigError, match="separator = ', '; expected a single character"):
        TableLayout(separator=", ")
    with pytest.raises(ConfigError, match="encoding = 'utf-9' is unknown; expected a name such as"):
        TableLayout(encoding="utf-9")


def test_parquet_knows_its_columns_and_nulls(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "n": [1, 2], "label": [3, None]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2: the label is empty \(None\)"):
        read_table(path, COLUMNS)
    assert read_table(path, {"label": "n"})[1] == Row(2, {"label": "2"})
    with pytest.raises(DataError, match=r"no column 'class'; its columns are 'text', 'n', 'label'"):
        read_table(path, {"label": "class"})
    parquet.write_table(pyarrow.table({"text": [], "label": []}), path)
    with pytest.raises(DataError, match=r"a\.parquet is empty"):
        read_table(path, COLUMNS)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r'needs pyarrow: pip install "qkv\[train\]"'):
        read_table(write(tmp_path / "a.parquet", "x"), COLUMNS)
    with pytest.raises(
        MissingDependencyError, match=r"'owner/name' is not a file, and the Hub needs"
    ):
        read_table("owner/name", COLUMNS)


def test_a_text_keeps_its_line_ends(tmp_path):
    assert read_text(write(tmp_path / "a.gz", "a\r\nb\u2028")) == "a\r\nb\u2028"


def test_semicolons_as_spreadsheets_write_them(tmp_path):
    path = tmp_path / "t.csv"
    rows = [("text", "label"), ("one; two, three", "a"), ("four", "b")]
    path.write_text(table(rows, separator=";"), newline="")
    expected = [{"text": "one; two, three", "label": "a"}, {"text": "four", "label": "b"}]
    assert [row.fields for row in read_table(path, {"text": "text", "label": "label"})] == expected
    path.write_text("a;b,c\n1;2,3\n")  # with a comma in it, the first line is one of commas
    assert read_table(path, {"x": "a;b"})[0].fields == {"x": "1;2"}
    path.write_text("a;b\n1;2\n")
    assert read_table(path, {"x": "a;b"}, TableLayout(separator=","))[0].fields == {"x": "1;2"}


def test_all_problems_are_reported_at_once(tmp_path):
    lines = ["text,label", *(f"text {i},good" for i in range(30))]
    for line in (3, 5, *range(10, 21)):
        lines[line - 1] = "text,"
    lines[6] = "one, two,bad"
    lines[8] = '"a"b,good'
    path = write(tmp_path / "a.csv", "\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_table(path, COLUMNS)
    first, *rest = str(caught.value).split("\n")
    assert first == f"15 of the 30 rows of {path} have problems:"
    assert rest[0].startswith("- empty label (13): line 3: the label is empty (''); expected")
    assert rest[1] == "  also in lines 5, 10, 11, 12, 13, 14, 15, 16, 17 and 3 more"
    assert rest[2].startswith("- wrong number of fields (1): line 7, has 3 fields, expected 2")
    assert rest[3].startswith("- broken quotes (1): in the row that begins at line 9: ',' expected")
    assert len(rest) == 4
    rows = read_table(path, COLUMNS, keep_bad_rows=True)
    assert report_problems(path, rows) == str(caught.value)
    assert [row.line for row in rows if not row.problem] == [2, 4, 6, 8, *range(21, 32)]
    assert {row.kind for row in rows} == {
        "",
        "empty label",
        "wrong number of fields",
        "broken quotes",
    }
    assert report_problems(path, rows[:1]) == ""
    assert report_problems(path, rows[:2]) == rows[1].problem


def test_rows_without_lines_are_rows_in_the_report(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "", ""], "label": ["x", "y", "z"]}), path)
    with pytest.raises(DataError, match=r"empty text \(2\): row 2: (.|\n)* also in rows 3$"):
        read_table(path, COLUMNS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", " text ,label\t\n a , good \nb,good\n"),
        ("a.tsv", "text \t label\n a \t good\nb\tgood \n"),
        ("a.jsonl", '{" text": " a ", "label ": " good"}\n{"text": "b", "label": "good"}\n'),
    ],
)
def test_white_space_around_names_and_labels_is_removed(tmp_path, name, content):
    rows = read_table(write(tmp_path / name, content), {"text": "text", "label": " label"})
    assert [row.fields for row in rows] == [
        {"text": " a ", "label": "good"},
        {"text": "b", "label": "good"},
    ]
    with pytest.raises(DataError, match="has 2 columns 'text'"):
        read_table(write(tmp_path / "b.csv", "text,text ,label\na,b,c\n"), COLUMNS)


def test_bytes_that_are_not_text_are_reported_with_the_rest(tmp_path):
    content = "text,label,note\nschön,gut,a\na,,b\nc,gut,schön\n".encode("latin-1")
    with pytest.raises(
        DataError, match=r"2 of the 3 rows .*(.|\n)* invalid characters in the text \(1\)"
    ):
        read_table(write(tmp_path / "a.csv", content), COLUMNS)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_are_read_without_holding_the_file(tmp_path, kind):
    path, rows = tmp_path / f"a.{kind}", [f"row {i} " + "x" * 501 for i in range(20_011)]
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=1_009)
    else:
        lines = [json.dumps({"text": row}) for row in rows] if kind == "jsonl" else ["text", *rows]
        path.write_text("\n".join(lines))
    next(iterate_table(path, {"text": "text"}))  # what is imported is not measured
    tracemalloc.start()
    count = sum(
        row.fields["text"].startswith("row ") for row in iterate_table(path, {"text": "text"})
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_011
    assert peak < 4_000_000  # of 10 MB

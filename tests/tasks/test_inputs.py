"""The inputs of commands: from where they come, and that a broken one stops no other."""

import io
import json
import re
import sys
from dataclasses import dataclass

import pytest
import torch

from qkv.errors import ConfigError, DataError, LengthError
from qkv.tasks.inputs import Item, pick_device, text_items
from qkv.tasks.outputs import answer_all

TEXT = {"text": "text"}


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


@dataclass(frozen=True)
class Shouted:
    text: str
    loud: str


def shout(fields):
    for one in fields:
        if "long" in one["text"]:
            raise LengthError(f"{one['text']!r} is too long")
    return [Shouted(one["text"], one["text"].upper()) for one in fields]


def run(items, as_json=False):
    answer_all(items, shout, line=lambda result: result.loud, as_json=as_json)


@pytest.fixture
def standard_input(monkeypatch):
    def give(content, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return give


def test_of_a_thousand_inputs_three_are_broken_and_the_others_come_out(standard_input, capsys):
    lines = [f"text {i}".encode() for i in range(1, 1001)]
    lines[6], lines[499], lines[898] = b"caf\xe9", b"  ", b"a long text"
    standard_input(b"\n".join(lines))
    with raises(DataError, "3 of 1,000 inputs have no result, see above"):
        run(text_items([], None, TEXT))
    captured = capsys.readouterr()
    said = captured.out.split("\n")[:-1]
    assert len(said) == 1000
    for number, line in enumerate(said, start=1):
        assert line == ("" if number in (7, 500, 899) else f"TEXT {number}")
    assert captured.err.splitlines() == [
        "qkv: standard input, line 7: not UTF-8: 'caf\\udce9' (another encoding, such as Latin-1?)",
        "qkv: standard input, line 500: empty; expected a text",
        "qkv: standard input, line 899: 'a long text' is too long",
    ]


def test_in_json_the_error_stands_where_the_answer_would(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_bytes(b'n,text\n1,"one\nline"\n2\n3,\n4,caf\xe9\n5,five\n')
    with raises(DataError, "3 of 5 inputs have no result"):
        run(list(text_items([], table, TEXT)), as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == {"text": "one\nline", "loud": "ONE\nLINE"}
    assert said[4] == {"text": "five", "loud": "FIVE"}
    assert "t.csv, line 4, has 1 fields, expected 2" in said[1]["error"]
    assert "t.csv, line 5: the text is empty ('')" in said[2]["error"]
    assert (
        "t.csv, line 6: the text has invalid characters: 'caf\\udce9' (another" in said[3]["error"]
    )


def test_json_lines_with_broken_ones(tmp_path, capsys):
    table = tmp_path / "t.jsonl"
    table.write_text(
        '{"text": "a"}\n{"text"\n[1]\n{"other": "b"}\n{"text": 7}\n{"text": "\\ud83d"}'
    )
    with raises(DataError, "4 of 6 inputs have no result"):
        run(list(text_items([], table, TEXT)))
    captured = capsys.readouterr()
    assert captured.out == "A\n\n\n\n7\n\n"
    for message in (
        "line 2, is not JSON",
        "is a JSON list",
        "no column 'text'",
        "has invalid characters",
    ):
        assert message in captured.err


def test_where_nothing_can_be_answered_nothing_is_printed(capsys):
    with raises(DataError, "argument 1: empty; expected a text"):
        run(text_items([" "], None, TEXT))
    with raises(DataError, "2 of 2 inputs have no result"):
        run(text_items(["", ""], None, TEXT))
    assert capsys.readouterr().out == ""


def test_an_error_that_is_no_input_s_fault_goes_through():
    def fail(_):
        raise ConfigError("beam = -1")

    with raises(ConfigError, "beam = -1"):
        answer_all([Item(where="here", fields={"text": "a"})], fail, line=str, as_json=False)


def test_lines_keep_what_is_no_line_end(standard_input):
    standard_input("\ufeffa\u2028b\x0bc\r\nd\n\n".encode())
    assert [item.fields["text"] for item in text_items([], None, TEXT)] == ["a\u2028b\x0bc", "d"]


def test_there_is_one_source_of_inputs(standard_input, tmp_path):
    with raises(
        ConfigError, "there are inputs as arguments (2) and --file x.csv; expected one of the two"
    ):
        text_items(["a", "b"], tmp_path.__class__("x.csv"), TEXT)
    standard_input(b"", terminal=True)
    with raises(DataError, "no input: expected an image as an argument, --file FILE, or lines on"):
        text_items([], None, TEXT, what="an image")
    with raises(DataError, "cannot read"):
        list(text_items([], tmp_path / "no.txt", TEXT))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder with a model, a folder, and a table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text("{}")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mine.csv").write_text("text\na film\n")


ELSE = "? Texts that look like names can be read with --file or from standard input"


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        (["sentiment"], "is the name of a model: did you mean --model sentiment"),
        (["a film", "sentiment"], "is the name of a model: did you mean --model sentiment"),
        (["sentimnt", "a film"], "looks like the name of a model: did you mean --model sentiment"),
        (["made", "a film"], "is a folder: did you mean --model made"),
        (["pictures"], "is a folder: did you mean --model pictures"),
        (["mine.csv"], "is a file: did you mean --file mine.csv"),
        (["a.jsonl"], "looks like the name of a file that does not exist: did you mean --file"),
        (["a film", "in/b.TXT"], "looks like the name of a file that does not exist: did you"),
    ],
)
def test_a_text_that_looks_like_a_name_is_refused(files, texts, meant):
    named = next(text for text in texts if text != "a film")
    with raises(ConfigError, f"the text {named!r} {meant}") as raised:
        text_items(texts, None, TEXT)
    assert str(raised.value).endswith(ELSE)


@pytest.mark.parametrize(
    "text",
    [
        *("yes/no", "10/10", "either/or that", "word", "owner/name", "no/such/folder", "date"),
        *("I read it in mine.csv", "sentimnt", "...", "3.5", "e.g.", "a\0b", "ä" * 255),
    ],
)
def test_what_looks_like_no_name_here_is_a_text(files, text):
    assert [item.fields["text"] for item in text_items([text], None, TEXT)] == [text]
    if text != "sentimnt" and text != "date":
        assert len(text_items([text, "a film"], None, TEXT)) == 2


def test_a_name_from_a_file_or_standard_input_is_a_text(files, tmp_path, standard_input):
    (tmp_path / "names.txt").write_text("sentiment\nmine.csv\n")
    standard_input(b"sentiment\nmine.csv\n")
    for file in (tmp_path / "names.txt", None):
        found = [item.fields["text"] for item in text_items([], file, TEXT)]
        assert found == ["sentiment", "mine.csv"]


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert isinstance(pick_device("auto"), torch.device)
    with raises(ConfigError, "device = 'abacus' cannot be used: Expected one of cpu"):
        pick_device("abacus")

"""The inputs of commands: from where they come, and that a broken one stops no other."""

import io
import json
import re
import sys
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from qkv.errors import ConfigError, DataError, LengthError
from qkv.tasks.inputs import Item, answer_all, pick_device, split_model, text_items

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
    with raises(DataError, "3 of 1,000 inputs have no answer, see above"):
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
    with raises(DataError, "3 of 5 inputs have no answer"):
        run(text_items([], table, TEXT), as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == {"text": "one\nline", "loud": "ONE\nLINE"}
    assert said[4] == {"text": "five", "loud": "FIVE"}
    assert "t.csv, line 4, has 1 fields, expected 2" in said[1]["error"]
    assert "t.csv, line 5: the text is empty ('')" in said[2]["error"]
    assert "t.csv, line 6: the text is no text: 'caf\\udce9' (another" in said[3]["error"]


def test_json_lines_with_broken_ones(tmp_path, capsys):
    table = tmp_path / "t.jsonl"
    table.write_text(
        '{"text": "a"}\n{"text"\n[1]\n{"other": "b"}\n{"text": 7}\n{"text": "\\ud83d"}'
    )
    with raises(DataError, "4 of 6 inputs have no answer"):
        run(text_items([], table, TEXT))
    captured = capsys.readouterr()
    assert captured.out == "A\n\n\n\n7\n\n"
    for message in ("line 2, is no JSON", "is a JSON list", "no column 'text'", "is no text"):
        assert message in captured.err


def test_where_nothing_can_be_answered_nothing_is_printed(capsys):
    with raises(DataError, "argument 1: empty; expected a text"):
        run(text_items([" "], None, TEXT))
    with raises(DataError, "2 of 2 inputs have no answer"):
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
    with raises(ConfigError, "2 inputs and --file x.csv were given; expected one of the two"):
        text_items(["a", "b"], tmp_path.__class__("x.csv"), TEXT)
    standard_input(b"", terminal=True)
    with raises(DataError, "no input: expected an image as an argument, --file FILE, or lines on"):
        text_items([], None, TEXT, what="an image")
    with raises(DataError, "cannot read"):
        text_items([], tmp_path / "no.txt", TEXT)


def test_which_of_the_inputs_is_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text("{}")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    for first in ("made", "all-MiniLM-L6-v2", "owner/name", "no/such/folder", str(tmp_path / "x")):
        assert split_model([first, "a"], None, "default") == (first, ["a"])
        assert split_model([first], None, "default") == (first, [])
        assert split_model([first, "a"], "other", "default") == ("other", [first, "a"])
    too_long = "ä" * 255  # for a file's name: 510 bytes
    for first in ("", "a text", "either/or that", "word", "pictures/a.png", too_long, "a " * 5_000):
        assert split_model([first, "a"], None, "default") == ("default", [first, "a"])
    assert split_model([], None, "default") == ("default", [])
    assert split_model(["pictures"], None, "default") == ("pictures", [])


def test_which_of_the_files_is_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text("{}")
    (tmp_path / "pictures").mkdir()
    split = partial(split_model, model=None, default="default", suffixes=(".png", ".jpg"))
    assert split(["made"]) == ("made", [])
    assert split(["made", "a.png"]) == ("made", ["a.png"])
    assert split(["owner/name-0.5", "a.png"]) == ("owner/name-0.5", ["a.png"])
    for others in (["pictures"], ["gone/a.png"], ["gone/a.PNG", "b.png"], ["gone/folder"]):
        assert split(others) == ("default", others)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert isinstance(pick_device("auto"), torch.device)
    with raises(ConfigError, "device = 'abacus' cannot be used: Expected one of cpu"):
        pick_device("abacus")

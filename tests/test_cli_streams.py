"""Streams that are closed, full, or lack letters: what was worked out is printed or reported."""

import ast
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import qkv
import qkv.cli as cli
from qkv.tasks.inputs import text_items
from qkv.tasks.outputs import answer_all

TEXT = "Ładny film – é, 😀"
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@dataclass
class Said:
    text: str


def say(*texts: str, json: bool = False) -> None:
    """Say texts.

    Args:
        texts: to say.
        json: as objects.
    """
    answer_all(
        text_items(texts, None, {"text": "text"}),
        lambda asked: [Said(one["text"]) for one in asked],
        line=lambda said: said.text,
        as_json=json,
    )


@pytest.fixture(autouse=True)
def command(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "say", (f"{__name__}:say", "Say texts."))


class Full(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        raise OSError(28, "No space left on device")


def stream(raw, encoding="utf-8"):
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)


def shell(redirect, *arguments, **environment):
    """Run the real command in a shell, with what only a whole process shows."""
    code = "import sys; from qkv.cli import main; sys.exit(main())"
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", sys.executable, "-c", code, *arguments],
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "latin-1", "utf-16-le"])
def test_text_and_json_in_any_encoding(monkeypatch, encoding):
    for flags in ([], ["--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", stream(raw, encoding))
        assert cli.main(["say", *flags, TEXT]) == 0
        printed = raw.getvalue()
        if not flags:
            assert printed == (TEXT + "\n").encode(encoding, "backslashreplace")
        elif encoding == "utf-8":
            assert printed == f'{{"text": "{TEXT}"}}\n'.encode()
        else:
            assert json.loads(printed.decode(encoding).encode("ascii")) == {"text": TEXT}


def test_a_message_with_letters_that_the_errors_lack(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", stream(raw, "ascii"))
    assert cli.main(["say", "Ärger\udc80"]) == 2
    assert b"\\xc4rger\\udc80" in raw.getvalue()


def test_errors_that_are_closed_are_printed_nowhere_else(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["say", ""]) == 2
    sys.stderr.close()
    assert capsys.readouterr().out == ""


def test_errors_that_go_nowhere_leave_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", stream(Full()))
    assert cli.main(["say", ""]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["say", "generate"])
def test_a_closed_input_is_empty(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main([name]) == 2
    message = "qkv: error: standard input is empty: expected a "
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("arguments", [["a"], ["--json", "a", ""], ["x" * 100_003]])
def test_a_full_output_is_reported(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "stdout", stream(Full()))
    assert cli.main(["say", *arguments]) == 1
    message = "qkv: error: [Errno 28] No space left on device"
    assert capsys.readouterr().err.splitlines()[-1] == message


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
def test_a_closed_output_is_reported():
    said = shell(">&-", "info")
    assert said.returncode == 1
    assert said.stderr.startswith(b"qkv: error: standard output is closed; expected ")
    assert said.stderr.count(b"\n") == 1


@FULL
def test_a_full_disk_is_reported_once_and_not_at_the_end_of_python():
    said = shell(">/dev/full", "info")
    assert said.returncode == 1
    assert said.stderr == b"qkv: error: [Errno 28] No space left on device\n"


def test_an_argument_that_the_locale_could_not_read_is_the_text_that_was_typed(capsys):
    typed = TEXT.encode().decode("ascii", "surrogateescape")
    assert cli.main(["say", typed]) == 0
    assert capsys.readouterr().out == TEXT + "\n"


def fail() -> None:
    """Fail."""
    "out/Ä".encode("ascii")


def test_a_name_that_the_system_cannot_hold_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "fail", (f"{__name__}:fail", "Fail."))
    assert cli.main(["fail"]) == 2
    message = "qkv: error: 'out/Ä' cannot be written in ascii, the encoding of file names here"
    assert capsys.readouterr().err.startswith(message)


RECIPE = """
import sys
from pathlib import Path
from qkv.tasks.recipes import read_recipe
print(ascii(read_recipe(Path(sys.argv[1]))[2]["label"]))
"""


def test_a_recipe_is_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "recipe.yaml").write_text("task: classify\nlabel: Ärger ł\n", encoding="utf-8")
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = subprocess.run(
        [sys.executable, "-c", RECIPE, tmp_path / "recipe.yaml"],
        capture_output=True,
        env={**os.environ, **ascii_locale},
        text=True,
    )
    assert said.stdout == "'\\xc4rger \\u0142'\n", said.stderr


def test_every_text_file_is_read_and_written_in_an_encoding_that_is_named():
    unnamed = []
    for path in Path(qkv.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            of_path = isinstance(node.func, ast.Attribute)
            named = any(word.arg == "encoding" for word in node.keywords)
            if name in ("read_text", "write_text") and of_path and not named:
                unnamed.append(f"{path}:{node.lineno}")
            modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
            is_mode = [one for one in modes if isinstance(one, str) and set(one) <= set("rwxabt+")]
            text = not any("b" in one for one in is_mode)
            if name == "open" and not of_path and text and not named:
                unnamed.append(f"{path}:{node.lineno}")
            if name == "open" and of_path and is_mode and text and not named:
                unnamed.append(f"{path}:{node.lineno}")
    assert unnamed == []

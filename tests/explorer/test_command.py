"""`qkv explore`: a page and a record of any shipped model, and one line for what is wrong."""

import base64
import re
import socket

import pytest
from tests.explorer.conftest import INPUTS, draw_seven, looked_at

from qkv.cli import main
from qkv.explorer.record import Record
from qkv.explorer.saved import PAGE, PLACE, empty_page, page_with


def explore(*arguments):
    return main(["explore", *map(str, arguments)])


def test_a_page_and_a_record_are_written(tmp_path, capsys):
    page, file = tmp_path / "page.html", tmp_path / "file.record"
    text = "A dull film."
    assert explore(text, "--model", "sentiment-small", "--save", page, "--record", file) == 0
    record = Record.load(file)
    assert record.header["task"]["inputs"] == {"text": text}
    assert record.header["task"]["output"] == "negative"
    assert "ablation" in record.header
    written = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/octet-stream" id="record">(.*?)</script>', written)
    assert base64.b64decode(data[1]) == file.read_bytes()
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("written to") == 2


def test_an_image_and_a_question_are_read_as_their_commands_do(tmp_path):
    image, passage = tmp_path / "seven.png", tmp_path / "passage.txt"
    draw_seven().save(image)
    passage.write_text(INPUTS["answer"][1]["context"])
    file = tmp_path / "x.record"
    assert explore(image, "--model", "recognizer", "--record", file, "--quick") == 0
    record = Record.load(file)
    assert record.header["task"]["output"] == "7"
    assert record.header["task"]["inputs"] == {"text": "seven.png"}  # and not where it was
    assert "ablation" not in record.header
    question = INPUTS["answer"][1]["text"]
    options = ["--model", "answerer-small", "--context", passage, "--quick"]
    assert explore(question, *options, "--record", file) == 0
    assert Record.load(file).header["task"]["output"] == "Ada"


def test_new_tokens_bound_a_continuation(tmp_path):
    file = tmp_path / "x.record"
    options = ["--model", "generator", "--record", file, "--new-tokens", 3]
    assert explore("Return", *options) == 0
    header = Record.load(file).header
    prompt = header["output"]["prompt"]
    assert len(header["sequences"]["source"]) == prompt + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "expected --model"),
        (["x", "--model", "sentiment-small"], "expected --save PAGE.html or --record FILE"),
        (["x", "y", "--model", "sentiment-small", "--save", "{}/p"], "2 inputs; expected one"),
        (["sentiment", "--model", "sentiment-small", "--save", "{}/p"], "did you mean --model"),
        (["x", "--model", "answerer-small", "--save", "{}/p"], "without a passage"),
        (["x", "--model", "sentiment-small", "--context", "y", "--save", "{}/p"], "--context with"),
        (
            ["x", "--model", "answerer-small", "--second", "y", "--save", "{}/p"],
            "--second with a model",
        ),
        (["{}/no.png", "--model", "recognizer", "--save", "{}/p"], "there is no such file"),
        (["x", "--model", "summarizer", "--second", "y", "--save", "{}/p"], "--second with"),
        (["x", "--model", "sentiment-small", "--save", "{}/p.png"], "name ends in .html"),
        (["x", "--model", "sentimental", "--save", "{}/p"], "sentimental"),
        (["x", "--model", "generator", "--new-tokens", "0", "--save", "{}/p"], "new_tokens = 0"),
        (["--save", "{}/p"], "without an input"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, tmp_path, capsys):
    assert explore(*(one.format(tmp_path) for one in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_an_image_is_not_replaced(tmp_path, capsys):
    image = tmp_path / "seven.png"
    draw_seven().save(image)
    before = image.read_bytes()
    assert explore(image, "--model", "recognizer", "--save", image) == 2
    assert "is the image; expected another file" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_looking_opens_no_connection(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert explore("Gut.", "--model", "translator-de-en", "--save", tmp_path / "p") == 0


def test_the_built_page_is_one_small_file_that_names_no_other():
    page = empty_page()
    assert PAGE.stat().st_size <= 400_000
    assert page.count(PLACE) == 1
    hosts = set(re.findall(r"https?://([\w.-]+)", page))
    assert hosts <= {"www.w3.org", "svelte.dev"}  # names of XML, and of pages in error messages
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", page)


def test_a_record_cannot_end_its_script_early():
    looked = looked_at("classify")
    header = {**looked.record.header}
    header["task"] = {**header["task"], "note": "</script><script>alert(1)</script>"}
    page = page_with(Record(header, looked.record.tensors))
    assert page.count("</script>") == empty_page().count("</script>") + 1

"""`qkv translate`: texts from everywhere, in order; broken ones are reported with their place."""

import io
import json
import signal
from pathlib import Path

import pytest
from tests.helpers import unchecked
from tests.tasks.translators import TEXTS, make_translator

from qkv.cli import main
from qkv.errors import ConfigError, DataError
from qkv.evaluation.translation import translation_scores
from qkv.generation.ranking import Beam
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.tasks.commands import command_of
from qkv.tasks.pipeline import OURS, PARAMETERS
from qkv.tasks.translation import TASK, Translate, Translator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "marian"
    beam = Beam(size=3, length_penalty=1.0, length_rule="power")
    make_translator("marian", beam=beam).save(folder)
    return str(folder)


@pytest.fixture
def run(folder, capsys):
    """The lines that a command prints."""

    def run(*inputs, **options):
        with unchecked():
            Translate(model=folder, device="cpu", **options).run(TASK, inputs)
        return capsys.readouterr().out.splitlines()

    return run


def test_each_text_has_its_line(run, folder):
    translations = Translator.load(folder)(TEXTS)
    assert run(*TEXTS) == [" ".join(str(one).split()) for one in translations]
    assert run(*reversed(TEXTS)) == run(*TEXTS)[::-1]


def test_from_a_file_and_from_standard_input(run, folder, tmp_path, monkeypatch):
    table, lines = tmp_path / "my.csv", tmp_path / "my.txt"
    table.write_text("english\nabc\ncabba\n", encoding="utf-8")
    lines.write_text("abc\ncabba\n", encoding="utf-8")
    expected = run("abc", "cabba")
    assert run(file=table, columns={"source": "english"}) == run(file=lines) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.read_bytes())))
    assert run() == expected
    with pytest.raises(DataError, match=r"my\.csv has no column 'source'"):
        run(file=table)
    with pytest.raises(ConfigError, match=r"columns\.text = 'english': there is no such role"):
        run(file=table, columns={"text": "english"})
    config = Path(folder, "config.json")
    before = config.read_bytes()
    columns = {"task": "translate", "columns": {"source": "english", "target": "german"}}
    try:
        config.write_text(json.dumps({**json.loads(before), PARAMETERS: {OURS: columns}}))
        assert run(file=table) == expected  # as in the training data
    finally:
        config.write_bytes(before)


def test_json_has_candidates_scores_and_the_note(run, folder):
    [line] = run("abc", json=True, n_best=2, beam=4)
    said = json.loads(line)
    assert set(said) == {"text", "translation", "score", "n_best", "note"}
    assert said["text"] == "abc"
    assert len(said["n_best"]) == 2
    assert said["n_best"][0] == {name: said[name] for name in ("translation", "score")}
    [greedy] = run("abc", beam=1, json=True)
    beam = Beam(size=1, length_penalty=1.0, length_rule="power")
    assert json.loads(greedy)["translation"] == str(Translator.load(folder, beam=beam)("abc"))
    [cut] = run("abc", max_length=2, json=True)
    assert len(json.loads(cut)["translation"]) <= 2


def test_what_is_not_whole_is_said_beside(folder, capsys):
    with unchecked():
        command_of("translate")("abcab. " * 3, options=Translate(model=folder, device="cpu"))
    said = capsys.readouterr()
    note = "21 tokens, but the model reads at most 13: split into 2 parts"
    assert note in " ".join(said.err.split())
    assert len(said.out.splitlines()) == 1


def test_broken_inputs_stop_no_others(run, capsys, folder):
    with unchecked(), pytest.raises(DataError, match="1 of 3 inputs have no result"):
        Translate(model=folder, device="cpu").run(TASK, ["abc", " ", "b"])
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == ""
    assert "argument 2: empty" in said.err
    assert [said.out.splitlines()[i] for i in (0, 2)] == run("abc", "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"beam": 0}, "a beam of size 0, expected at least 1"),
        ({"beam": 2, "n_best": 3}, "n_best is 3, expected 1 to 2, the size"),
        ({"n_best": 0}, "n_best is 0"),
    ],
)
def test_numbers_out_of_range(run, options, words):
    with pytest.raises(ConfigError, match=words):
        run("abc", **options)


def test_scores_have_a_table_with_signatures():
    scores = translation_scores(["a b c d"], ["a b c d"], samples=2)
    [(title, rows)] = TASK.tables(scores).items()
    assert TASK.summary(scores) == "BLEU 100.00, lowercase 100.00, chrF 100.00 of 1 texts"
    assert title == "1 texts"
    assert [row["score"] for row in rows] == ["BLEU", "BLEU, lowercase", "chrF2"]
    assert [row["value"] for row in rows] == ["100.00"] * 3
    assert all("version:" in row["signature"] for row in rows)


def test_an_interrupt_in_the_middle_of_a_text_ends_it_without_a_word(folder, capsys, monkeypatch):
    calls, step = [], EncoderDecoder.step

    def interrupted(self, tokens, state):
        calls.append(tokens)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, tokens, state)

    monkeypatch.setattr(EncoderDecoder, "step", interrupted)
    # What a shell starts in the background ignores the signal, and its tests would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with unchecked():
            assert main(["translate", "--model", folder, *TEXTS]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 2
    assert capsys.readouterr() == ("", "")

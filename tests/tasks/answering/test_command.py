"""`qkv answer`: questions from arguments, files and standard input."""

import io
import json
import sys

import pytest
import torch
from tests.tasks.small import load_in_float64, write_base, write_table

from qkv.cli import main
from qkv.data.windows import WindowConfig
from qkv.tasks import pipeline
from qkv.tasks.answering import Answerer
from qkv.tasks.pretrained import save

CONTEXT = "the film was not dull and\tthe book was a superb meal"
ASKED = ["was the film dull", "the book"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = write_base(tmp_path_factory.mktemp("base") / "bert")
    torch.manual_seed(1)
    made = Answerer.fresh(base, WindowConfig(max_length=17, stride=4, max_answer=5))
    folder = tmp_path_factory.mktemp("made") / "model"
    save(made.loaded, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    load_in_float64(monkeypatch, pipeline)


@pytest.fixture
def qkv(capsys):
    """Run a command line; returns its status, standard output, and errors."""

    def run(*arguments, status=0):
        assert main([str(argument) for argument in arguments]) == status
        return capsys.readouterr()

    return run


def test_questions_are_answered_in_order(qkv, model):
    lines = qkv("answer", "-m", model, "--context", CONTEXT, *ASKED).out.splitlines()
    for line, question in zip(lines, ASKED, strict=True):
        found = Answerer.load(model)(question, CONTEXT)
        answer, probability, said = line.split("\t")
        assert (answer, said) == (found.answer.replace("\t", " "), question)
        assert float(probability) == pytest.approx(found.confidence, abs=1e-4)


def test_where_it_abstains_it_says_so(qkv, model):
    options = ("answer", "-m", model, "--context", CONTEXT, *ASKED)
    for line, question in zip(
        qkv(*options, "--threshold", "-inf").out.splitlines(), ASKED, strict=True
    ):
        answer, probability, said = line.split("\t")
        assert (answer, said) == ("(no answer in the passage)", question)
        assert 0 < float(probability) < 1
    for line in qkv(*options, "--threshold", "-inf", "--json").out.splitlines():
        one = json.loads(line)
        assert (one["answer"], one["start"], one["end"]) == ("", None, None)
        assert one["n_best"][0]["answer"]
        assert isinstance(one["no_answer_score"], float)
    assert qkv(*options, "--threshold", "inf").out == qkv(*options).out
    assert '"(no answer in the passage)" where' in qkv("answer", "--help").out


def test_a_passage_that_is_longer_than_the_input_is_reported_once(qkv, model):
    said = qkv("answer", "-m", model, "--context", f"{CONTEXT} {CONTEXT}", *ASKED)
    note = "longer than the model's input; read in "
    assert said.err.count(note) == 1
    assert said.err.startswith("qkv: 'the film was not dull and")
    n = int(said.err.split(note)[1].split()[0])
    out = qkv("answer", "-m", model, "--context", f"{CONTEXT} {CONTEXT}", "--json", ASKED[1]).out
    assert json.loads(out)["n_windows"] == n > 1
    assert note not in qkv("answer", "-m", model, "--context", "the film", ASKED[1]).err


def test_a_passage_may_be_a_word_that_is_longer_than_any_file_name(qkv, model):
    said = qkv("answer", "-m", model, "--context", "ä" * 255, ASKED[0], status=0)
    assert "File name too long" not in said.err


def test_a_passage_may_be_a_file_and_questions_lines(qkv, model, tmp_path, monkeypatch):
    expected = qkv("answer", "-m", model, "--context", CONTEXT, *ASKED).out
    passage, questions = tmp_path / "passage.txt", tmp_path / "asked.txt"
    passage.write_text(CONTEXT)
    questions.write_text("\n".join(ASKED))
    assert qkv("answer", "-m", model, "--context", passage, *ASKED).out == expected
    assert qkv("answer", "-m", model, "--context", passage, "--file", questions).out == expected
    stream = io.TextIOWrapper(io.BytesIO(questions.read_bytes()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)
    assert qkv("answer", "--model", model, "--context", passage).out == expected


def test_tables_and_squad_say_the_same(qkv, model, tmp_path):
    expected = qkv("answer", "-m", model, "--context", CONTEXT, "--json", *ASKED).out.splitlines()
    table = write_table(tmp_path / "my.csv", [(q, CONTEXT) for q in ASKED], ("q", "passage"))
    names = ["--columns.question", "q", "--columns.context", "passage"]
    out = qkv("answer", "-m", model, "--file", table, *names, "--json").out.splitlines()
    assert [keyed(line) for line in out] == [keyed(line) for line in expected]
    qas = [{"id": f"id {i}", "question": q, "answers": []} for i, q in enumerate(ASKED)]
    content = {"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(content))
    out = qkv("answer", "-m", model, "--file", tmp_path / "squad.json", "--json").out.splitlines()
    said = [json.loads(line) for line in out]
    assert [one["id"] for one in said] == ["id 0", "id 1"]
    assert [(one["start"], one["end"]) for one in said] == [keyed(line)[1:3] for line in expected]


def keyed(line):
    one = json.loads(line)
    assert CONTEXT[one["start"] : one["end"]] == one["answer"]
    assert len(one["n_best"]) == 3
    return one["question"], one["start"], one["end"], pytest.approx(one["confidence"], rel=1e-9)


def test_a_broken_row_stops_no_other(qkv, model, tmp_path):
    rows = [(ASKED[0], CONTEXT), ("", CONTEXT), (ASKED[1], CONTEXT)]
    table = write_table(tmp_path / "my.csv", rows, ("question", "context"))
    said = qkv("answer", "-m", model, "--file", table, status=2)
    assert [bool(line) for line in said.out.split("\n")] == [True, False, True, False]
    assert f"{table}, line 3" in said.err
    said = qkv("answer", "-m", model, "--context", CONTEXT, "the " * 20, ASKED[0], status=2)
    assert "argument 1: question 1 has 20 tokens" in said.err
    assert said.out.split("\n")[1].endswith(ASKED[0])


def test_what_cannot_be_answered(qkv, model, tmp_path):
    table = write_table(tmp_path / "my.csv", [("a", "b")], ("question", "text"))
    for arguments, message in (
        ([model, "who"], "questions without a passage; expected --context TEXT or --context FILE"),
        ([model, "--context", " ", "who"], "--context is empty"),
        (
            [model, "--context", "nofile.txt", "who"],
            "--context nofile.txt looks like the name of a file, but there is no such file",
        ),
        ([model, "--context", tmp_path, "who"], "is a folder: did you mean"),
        ([model, "--context", CONTEXT, "nofile.txt"], "the text 'nofile.txt' looks like the"),
        ([model, "--file", table], "has no column 'context'"),
        ([model, "--file", table, "--context", "x"], "has questions and passages; expected no"),
        ([model, "--file", table, "who"], "has questions and passages; expected no questions"),
        ([model, "--context", CONTEXT, " "], "argument 1: empty"),
    ):
        said = qkv("answer", "--model", *arguments, status=2)
        assert (said.out, message in said.err) == ("", True), said.err


def test_no_output_replaces_the_passage(qkv, model, tmp_path):
    passage = tmp_path / "passage.txt"
    passage.write_text(CONTEXT)
    arguments = ("-m", model, "--context", passage, "--output", passage, ASKED[0])
    assert (
        "would replace the file that contains the inputs" in qkv("answer", *arguments, status=2).err
    )
    assert passage.read_text() == CONTEXT

"""`qkv classify` and `qkv evaluate`, and the way from a csv to both."""

import io
import json
import re
import sys

import pytest
import torch
from tests.checkpoints.folders import write
from tests.tasks.small import (
    sentences,
    write_base,
    write_classifier,
    write_recipe,
    write_table,
)

from qkv.cli import main
from qkv.data.labels import Labels
from qkv.evaluation.classification import classification_report
from qkv.tasks.classification import TextClassifier

LABELS = ["bad", "good", "mixed"]
TEXTS = ["the film was lovely", "a soup", "the place was dull and rude ."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def model(base, tmp_path_factory):
    return str(write_classifier(tmp_path_factory.mktemp("made") / "model", Labels(LABELS), base))


@pytest.fixture
def qkv(capsys):
    """Run a command line that works; returns its standard output."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def error(capsys):
    """Run a command line that does not work; returns what it says after "qkv: error: "."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        assert captured.err.startswith("qkv: error: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("qkv: error: ").removesuffix("\n")

    return run


@pytest.fixture
def standard_input(monkeypatch):
    def give(content, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return give


def as_rows(lines):
    """What JSON lines say: texts, and a row of probabilities each."""
    said = [json.loads(line) for line in lines.split("\n")[:-1]]
    for one in said:
        assert list(one) == ["text", "label", "probability", "probabilities", "note"]
        assert list(one["probabilities"]) == LABELS
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert one["probability"] == max(one["probabilities"].values())
        assert one["probabilities"][one["label"]] == one["probability"]
    return [one["text"] for one in said], [list(one["probabilities"].values()) for one in said]


def test_from_a_csv_to_a_classifier_in_two_commands(qkv, tmp_path, base):
    data = write_table(tmp_path / "my.csv", sentences(32))
    recipe, made = write_recipe(tmp_path, base=base, data=tmp_path / "overridden.csv")
    options = ["--training.epochs", 40, "--training.learning_rate", "3e-3"]
    out = qkv("train", recipe, "--data.train", data, *options)
    assert f"try it: qkv classify --model {made} 'a text'" in out
    good = qkv("classify", "-m", made, "the film was superb")
    label, probability, text = good.removesuffix("\n").split("\t")
    assert (label, text) == ("good", "the film was superb")
    assert 0.5 < float(probability) <= 1
    assert "accuracy" in qkv("evaluate", made, "--data", data)
    scores = json.loads(qkv("evaluate", made, "--data", data, "--json"))
    assert scores["accuracy"] >= 0.9
    assert scores["count"] == 32


def test_texts_as_arguments_are_answered_in_order(qkv, model):
    lines = qkv("classify", "-m", model, *TEXTS).splitlines()
    expected = TextClassifier.load(model)(TEXTS)
    assert lines == [f"{one.label}\t{one.probability:.4f}\t{one.text}" for one in expected]


def test_options_stand_where_they_like(qkv, model):
    texts, rows = as_rows(qkv("classify", "-m", model, *TEXTS, "--json"))
    assert texts == TEXTS
    expected = TextClassifier.load(model).probabilities(TEXTS)
    assert rows == expected.tolist()
    for arguments in (
        ["--json", "-m", model, *TEXTS],
        ["--model", model, "--json", *TEXTS],
        [TEXTS[0], "--device", "cpu", TEXTS[1], "--json", "-m", model, "--max_length=13", TEXTS[2]],
        ["--json", f"--model={model}", "--", *TEXTS],
    ):
        assert as_rows(qkv("classify", *arguments)) == (TEXTS, rows)


def test_a_text_may_begin_with_a_hyphen(qkv, model):
    assert qkv("classify", "-m", model, "--", "- a film").endswith("\t- a film\n")
    assert qkv("classify", "-m", model, "--", "-40", "--json").endswith("\t--json\n")


def test_files_and_standard_input_say_the_same(qkv, model, tmp_path, standard_input):
    texts = ['the film, \u2028 not the "book"', "a soup \u00e9", "fine\x0b!"]
    expected = TextClassifier.load(model).probabilities(texts).tolist()
    lines = "\r\n".join(texts) + "\r\n\n"
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    table = write_table(tmp_path / "t.csv", [(i, text) for i, text in enumerate(texts)], ("n", "t"))
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps({'text': t})}\n" for t in texts))
    standard_input(lines.encode())
    for arguments in (
        ["--file", tmp_path / "texts.txt"],
        ["--file", table, "--columns.text", "t"],
        ["--file", tmp_path / "t.jsonl"],
        [],
    ):
        assert as_rows(qkv("classify", "-m", model, "--json", *arguments)) == (texts, expected)


def test_what_is_printed_is_a_line_a_text(qkv, model, tmp_path):
    table = write_table(tmp_path / "t.csv", [("two\nlines\tand a tab",), ("one",)], ("text",))
    lines = qkv("classify", "-m", model, "--file", table).splitlines()
    assert [line.split("\t")[2] for line in lines] == ["two lines and a tab", "one"]
    texts, _ = as_rows(qkv("classify", "-m", model, "--file", table, "--json"))
    assert texts == ["two\nlines\tand a tab", "one"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "standard input is empty: expected a text in each line"),
        (b"\n \n", "standard input is empty: expected a text in each line"),
        (b"caf\xe9\n", "standard input, line 1: not UTF-8: 'caf\\udce9' (another encoding"),
    ],
)
def test_lines_that_are_no_texts(error, model, standard_input, content, message):
    standard_input(content)
    assert error("classify", "-m", model).startswith(message)


def test_without_any_text_a_terminal_is_told_what_to_do(error, model, standard_input):
    standard_input(b"", terminal=True)
    assert error("classify", "-m", model) == (
        "no input: expected a text as an argument, --file FILE, or lines on standard input"
    )


def test_what_cannot_be_classified(error, model, base, tmp_path):
    table = write_table(tmp_path / "t.csv", [("a film", 1)], ("review", "stars"))
    for arguments, message in (
        ([model, "a film", "--file", table], "there are inputs as arguments (1) and --file "),
        ([model, "--file", table], "has no column 'text'; its columns are 'review', 'stars'"),
        ([model, "--file", tmp_path / "no.csv"], "no.csv"),
        ([model, "--file", tmp_path / "no.txt"], "cannot read "),
        ([model, ""], "argument 1: empty; expected a text"),
        ([model, "sentimnt", "I like it"], "the text 'sentimnt' looks like the"),
        ([model, "a.jsonl"], "the text 'a.jsonl' looks like the name of a file"),
        ([model, "a film", "--second", "b.csv"], "the text 'b.csv' looks like"),
        ([model, "a film", "--max_length", "2"], "max_length = 2 leaves no room for text"),
        ([model, "a film", "--max_length", "42"], "has learned positions for 41 tokens"),
        ([model, "a film", "--device", "abacus"], "device = 'abacus' cannot be used: Expected one"),
        ([base, "a film"], "is a Bert with a tokenizer; expected a model that was trained to"),
        ([tmp_path / "nothing", "a film"], "nothing' is neither a folder, nor a shipped model"),
        ([model, "a film", "--jsonn"], "--jsonn"),
        ([model, "a film", "--max_length", "many"], "--max_length"),
    ):
        assert message in error("classify", "--model", *arguments)


def test_scores_equal_those_by_hand(qkv, model, tmp_path):
    rows = [*sentences(20), ("a book", "mixed")]
    table = write_table(tmp_path / "t.csv", [pair[::-1] for pair in rows], ("stars", "review"))
    columns = ["--columns.text", "review", "--columns.label", "stars"]
    said = json.loads(qkv("evaluate", model, "--data", table, *columns, "--json"))
    probabilities = TextClassifier.load(model).probabilities([text for text, _ in rows])
    truth = torch.tensor([LABELS.index(label) for _, label in rows])
    expected = classification_report(truth.tolist(), probabilities, LABELS)
    guessed = probabilities.argmax(1)
    assert said["accuracy"] == expected.accuracy == (guessed == truth).double().mean().item()
    assert said["confusion"] == [
        [int(((truth == i) & (guessed == j)).sum()) for j in range(3)] for i in range(3)
    ]
    assert said["macro_f1"] == expected.macro_f1
    assert said["calibration_error"] == pytest.approx(expected.calibration_error, abs=1e-12)
    assert said["accuracy_interval"] == list(expected.accuracy_interval)

    out = qkv("evaluate", model, "--data", table, *columns)
    low, high = expected.accuracy_interval
    assert "│ 47.6%         │" in out  # of the largest class: 10 of 21
    assert f"{expected.accuracy:.1%} ({low:.1%} to {high:.1%})" in out
    for title in ("21 examples", "classes", "confusion matrix: true", "calibration: prob"):
        assert f"\n{title}" in f"\n{out}"
    (line,) = [line for line in out.splitlines() if line.startswith("│ mixed") and "%" in line]
    assert line.rstrip(" │").endswith("1")
    for row, name in zip(said["confusion"], LABELS, strict=True):
        assert any(
            line.split("│")[1:-1]
            and [cell.strip() for cell in line.split("│")[1:-1]] == [name, *map(str, row)]
            for line in out.splitlines()
        )


def test_named_sets_are_scored_by_their_test_part(qkv, error, base, tmp_path):
    folder = tmp_path / "reviews"
    write_classifier(folder, Labels(["negative", "positive"]), base)
    assert json.loads(qkv("evaluate", folder, "--data", "reviews", "--json"))["count"] == 300
    assert "no split 'dev' of reviews" in error("evaluate", folder, "--data", "reviews:dev")
    missing = error("evaluate", folder, "--data", "sst2", "--data_dir", tmp_path / "nowhere")
    assert "no split 'test' of sst2; expected train, validation" in missing
    other = ["--data", "emotion", "--data_dir", tmp_path / "nowhere"]
    assert "nowhere" in error("evaluate", folder, *other)


def test_what_cannot_be_scored(error, model, base, tmp_path):
    table = write_table(tmp_path / "t.csv", [("a film", "good"), ("a soup", "so-so")])
    for arguments, message in (
        ([model, "--data", table], "text 'a soup': the label 'so-so' was never seen in training"),
        ([model, "--data", table, "--columns.label", "lable"], "has no column 'lable'; its"),
        ([model, "--data", table, "--columns.stars", "x"], "expected some of text, label"),
        ([model, "--data", tmp_path / "no.csv"], "no.csv"),
        ([model], "data"),
        ([base, "--data", table], "qkv embed has no scores; expected a model of"),
        ([base, "--data", table, "--task", "classify"], "is a Bert with a tokenizer"),
        (
            [model, "--data", "reviews"],
            "was never seen in training; known are 'bad', 'good', 'mixed'",
        ),
    ):
        assert message in error("evaluate", *arguments)


def test_a_model_of_images_is_no_classifier_of_texts(error, tmp_path):
    write(tmp_path, "vit", architecture="ViTForImageClassification")
    assert "is a SequenceClassifier with no tokenizer" in error(
        "classify", "-m", tmp_path, "a film"
    )


def test_a_text_that_is_cut_is_said_beside_and_in_json(model, capsys):
    long = "the film was lovely " * 30_000
    status = main(["classify", "-m", model, long, "a soup", "--max_length", "7"])
    captured = capsys.readouterr()
    assert status == 0
    assert captured.out.count("\n") == 2
    assert captured.err == (
        "qkv: 'the film was lovely the film was ...': 120,002 tokens, of which the model read the "
        "first 7\n"
    )
    main(["classify", "-m", model, long, "a soup", "--max_length", "7", "--json"])
    captured = capsys.readouterr()
    notes = [json.loads(line)["note"] for line in captured.out.splitlines()]
    assert notes == ["120,002 tokens, of which the model read the first 7", ""]


def test_broken_rows_have_no_part_in_the_scores(qkv, model, tmp_path, capsys):
    rows = sentences(32)
    whole = json.loads(
        qkv("evaluate", model, "--data", write_table(tmp_path / "a.csv", rows), "--json")
    )
    lines = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    lines[5:5] = ['"he said "no" to me",good\n']
    lines[20:20] = ["a,b,c\n"]
    (tmp_path / "a.csv").write_text("".join([*lines, '"not closed,good\n']))
    status = main(["evaluate", model, "--data", str(tmp_path / "a.csv"), "--json"])
    captured = capsys.readouterr()
    assert status == 2
    assert json.loads(captured.out) == whole
    said = captured.err.splitlines()
    assert said[0].startswith("qkv: left out: 3 of the 35 rows of ")
    for line in (6, 21, len(lines) + 1):
        assert any(re.search(rf"lines? {line}\b", one) for one in said[1:-1])
    assert said[-1].startswith("qkv: error: ")
    assert said[-1].endswith("a.csv has malformed rows, which are not in the scores, see above")
    objects = [json.dumps({"text": text, "label": label}) for text, label in rows]
    nested = "\n".join([*objects[:7], "[" * 50_000, *objects[7:]])
    (tmp_path / "a.jsonl").write_text(nested)
    assert main(["evaluate", model, "--data", str(tmp_path / "a.jsonl"), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == whole
    assert "a.jsonl, line 8, is nested too deeply" in captured.err


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "mine.txt"])
def test_no_output_replaces_the_inputs(error, model, tmp_path, name):
    file = tmp_path / name
    file.write_text('{"text": "a soup"}\n' if name == "mine.jsonl" else "text\na soup\n")
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for output in (file, tmp_path / "link" / name):
        said = error("classify", "-m", model, "-f", file, "--output", output)
        assert said.startswith(f"--output {output} would replace the file that contains the inputs")
        assert file.read_bytes() == before


def test_what_was_written_is_counted(model, tmp_path, capsys):
    made, table = tmp_path / "out.csv", tmp_path / "mine.csv"
    assert main(["classify", "-m", model, "a soup", "--output", str(made)]) == 0
    assert capsys.readouterr().err == f"qkv: 1 result written to {made}\n"
    table.write_text("text,label\na soup,bad\n,bad\na film,good\n")
    assert main(["classify", "-m", model, "-f", str(table), "--output", str(made)]) == 2
    assert f"qkv: 2 results and 1 error written to {made}\n" in capsys.readouterr().err

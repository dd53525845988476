"""`qkv train qamr.yaml`: what is learned, what is written, and runs that are killed."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import GOOD, THINGS, write_base, write_table

import qkv.tasks.answering.recipe as recipes
from qkv.data.questions import Answer, Question
from qkv.data.windows import NO_ANSWER
from qkv.errors import ConfigError, DataError
from qkv.tasks.answering.answerer import Answerer
from qkv.tasks.answering.data import Questions, read_questions
from qkv.tasks.answering.recipe import learnable, train_answerer
from qkv.tasks.answering.search import Reading
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.recipe import Training

COLUMNS = ("question", "context", "answer")
ROWS = [
    (f"was the {thing} {word}", f"the {thing} was not {word} and the book was a meal", thing)
    for thing in THINGS
    for word in GOOD
]
READING = Reading(max_length=17, stride=4, max_answer=3)
TRAINING = {
    "epochs": 2.0,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "save_every": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "my.csv", ROWS, COLUMNS)


@pytest.fixture
def fit(base, table):
    """Train into a folder; returns it."""

    def run(output, *, finetuning=FineTuning(), fresh=False, **training):  # noqa: B008
        with unchecked():
            train_answerer(
                output=output,
                base=str(base),
                data=Questions(train=(str(table),), validation_share=0.25),
                reading=READING,
                finetuning=finetuning,
                training=Training(**TRAINING | training),
                device="cpu",
                fresh=fresh,
            )
        return output

    return run


def test_it_learns_and_writes_what_loads(fit, tmp_path, capsys):
    made = fit(tmp_path / "made", epochs=7.0, learning_rate=7e-3)
    content = json.loads((made / "results.json").read_text())
    assert content["test"] is None
    assert content["validation"]["count"] == 10
    assert content["questions to learn from"] == 30
    assert content["threshold"] is None
    answerer = Answerer.load(made)
    assert answerer.reading == READING
    said = answerer([row[0] for row in ROWS], [row[1] for row in ROWS])
    right = sum(one.answer == row[2] for one, row in zip(said, ROWS, strict=True))
    assert right > 20
    assert f"try it: qkv answer --model {made} --context" in capsys.readouterr().out


@pytest.mark.parametrize("at", [2, 6])
def test_a_run_that_is_killed_goes_on_to_the_same_weights(fit, tmp_path, monkeypatch, at):
    whole = load_file(fit(tmp_path / "whole") / "model.safetensors")
    calls, original = itertools.count(1), recipes.span_loss

    def loss(model, batch):
        if next(calls) == at:
            raise ZeroDivisionError("killed")
        return original(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "span_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    resumed = load_file(fit(tmp_path / "made") / "model.safetensors")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_lora_leaves_an_adapter_that_is_the_model(fit, tmp_path):
    made = fit(tmp_path / "made", finetuning=FineTuning(train="lora"), learning_rate=1e-2)
    adapter = tmp_path / "made.training" / "adapter"
    assert (adapter / "adapter_config.json").is_file()
    (adapter / "config.json").write_bytes((made / "config.json").read_bytes())
    whole, joined = Answerer.load(made), Answerer.load(adapter)
    for one, other in zip(whole.model.parameters(), joined.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert joined.reading == READING


def question(answer, start, context="the film was not dull and the book was a superb meal"):
    answers = () if answer is None else (Answer(answer, start),)
    return Question(id="1", question="was it", context=context, answers=answers, source="")


def test_windows_without_the_whole_answer_have_none(base):
    narrow = Answerer.fresh(base, Reading(max_length=11, stride=3))
    asked = question("film", 4)
    windows, spans = learnable(narrow, [asked])
    held = [
        asked.context[slice(*window.characters(*span))]
        for window, span in zip(windows, spans, strict=True)
        if span != NO_ANSWER
    ]
    assert len(windows) > 2
    assert held == ["film"]


def test_answers_that_are_no_spans_are_not_taken_for_silence(base):
    answerer = Answerer.fresh(base, READING)
    windows, spans = learnable(answerer, [question("film dull", None), question(None, None)])
    assert ([window.row for window in windows], spans) == ([0], [NO_ANSWER])
    with pytest.raises(DataError, match="none of 1 questions has an answer that stands in its"):
        learnable(answerer, [question("film dull", None)])


def test_tables_have_the_place_of_an_answer_looked_up(tmp_path):
    rows = [("who", "a film and a film", "film"), ("what", "a film", "book")]
    path = write_table(tmp_path / "my.csv", rows, ("q", "passage", "a"))
    columns = {"question": "q", "context": "passage", "answer": "a"}
    one, other = read_questions(str(path), "train", columns=columns)
    assert (one.span, other.span) == (Answer("film", 2), None)
    assert other.answers == (Answer("book", None),)
    with pytest.raises(DataError, match=r"has no column 'question'; its columns are 'q'"):
        read_questions(str(path), "train")


def test_what_is_refused_before_anything_is_read(fit, base, tmp_path):
    with pytest.raises(ConfigError, match=r"smoothing = 0\.1; expected 0"):
        fit(tmp_path / "made", smoothing=0.1)
    with pytest.raises(ConfigError, match="output and base are both"):
        train_answerer(output=base, base=str(base))
    for options, said in (
        ({"train": ()}, "data.train is empty"),
        ({"limit": 0}, "data.limit = 0"),
        ({"validation_share": 1.0}, "data.validation_share = 1.0"),
        ({"test": "qamr:train"}, "data names qamr:train twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            Questions(**options)

"""`qkv train qamr.yaml`: what is learned, what is written, and runs that are killed."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import GOOD, THINGS, write_base, write_table

import qkv.tasks.answering as page
from qkv.data.questions import Answer, Question
from qkv.data.unanswerable import Mixing, mix_questions
from qkv.data.windows import WindowConfig, training_windows
from qkv.errors import ConfigError, DataError
from qkv.tasks.answering import TASK, Answerer, AnsweringRecipe
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.splits import DataConfig, Source, read_splits
from qkv.tasks.train import train
from qkv.training.settings import Training

COLUMNS = ("question", "context", "answer")
ROWS = [
    (f"was the {thing} {word}", f"the {thing} was not {word} and the book was a meal", thing)
    for thing in THINGS
    for word in GOOD
]
WINDOWS = WindowConfig(max_length=17, stride=4, max_answer=3)
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

    def run(output, *, data=None, training=None, **fields):
        recipe = {
            "output": output,
            "base": str(base),
            "data": data or DataConfig(train=(str(table),), validation_fraction=0.25),
            "windows": WINDOWS,
            "training": Training(**TRAINING | (training or {})),
            "device": "cpu",
        }
        with unchecked():
            train(TASK, AnsweringRecipe(**recipe | fields))
        return output

    return run


def test_it_learns_and_writes_what_loads(fit, tmp_path, capsys):
    made = fit(tmp_path / "made", training={"epochs": 7.0, "learning_rate": 7e-3})
    content = json.loads((made / "results.json").read_text())
    assert "test" not in content
    assert content["validation"]["count"] == 10
    assert content["train_examples"] == 30
    assert content["threshold"] is None
    answerer = Answerer.load(made)
    assert answerer.windows == WINDOWS
    found = answerer([row[0] for row in ROWS], [row[1] for row in ROWS])
    right = sum(one.answer == row[2] for one, row in zip(found, ROWS, strict=True))
    assert right > 20
    printed = capsys.readouterr().out
    assert f"try it: qkv answer --model {made} --context" in printed
    assert "30 of 30 questions (the others' answers are not in their passages) in" in printed


def test_a_run_that_is_killed_goes_on_to_the_same_weights_with_the_same_data(
    fit, tmp_path, monkeypatch
):
    whole = load_file(fit(tmp_path / "whole") / "model.safetensors")
    calls, original = itertools.count(1), page.span_loss

    def loss(model, batch):
        if next(calls) == 6:
            raise ZeroDivisionError("killed")
        return original(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(page, "span_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    other = write_table(tmp_path / "my.csv", ROWS[:-1], COLUMNS)
    data = DataConfig(train=(str(other),), validation_fraction=0.25)
    with pytest.raises(ConfigError, match="data_checksum"):
        fit(tmp_path / "made", data=data)
    resumed = load_file(fit(tmp_path / "made") / "model.safetensors")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_lora_leaves_an_adapter_that_is_the_model(fit, tmp_path):
    made = fit(
        tmp_path / "made", finetuning=FineTuning(train="lora"), training={"learning_rate": 1e-2}
    )
    adapter = tmp_path / "made.training" / "adapter"
    assert (adapter / "adapter_config.json").is_file()
    (adapter / "config.json").write_bytes((made / "config.json").read_bytes())
    whole, joined = Answerer.load(made), Answerer.load(adapter)
    for one, other in zip(whole.model.parameters(), joined.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert joined.windows == WINDOWS


def test_a_threshold_is_chosen_on_the_validation_questions_and_saved(fit, table, tmp_path):
    """Of the questions in the validation file one has no answer."""
    content = {"data": [{"title": "t", "paragraphs": [paragraph(i) for i in range(3)]}]}
    (tmp_path / "validation.json").write_text(json.dumps(content))
    data = DataConfig(train=(str(table),), validation=str(tmp_path / "validation.json"))
    made = fit(tmp_path / "made", data=data)
    threshold = json.loads((made / "results.json").read_text())["threshold"]
    assert isinstance(threshold, float)
    assert Answerer.load(made).windows.threshold == threshold


def test_questions_that_lose_their_answer_train_the_span_of_cls(fit, base, table, tmp_path):
    """Devlin et al. 2019, section 4.3."""
    data = DataConfig(train=(str(table),), validation_fraction=0.25)
    mixing, windows = Mixing(unanswerable=0.5, seed=1), replace(WINDOWS, max_length=30)
    mixed = mix_questions(read_splits(TASK, data).train, mixing)
    tokenizer = Answerer.fresh(base, WINDOWS).tokenizer
    made, spans = training_windows(tokenizer, mixed, windows)
    assert len(made) == len(mixed) == 30
    lost = [not one.answers for one in mixed]
    assert [span == (0, 0) for span in spans] == lost
    assert 5 < sum(lost) < 25
    fit(tmp_path / "made", data=data, mixing=mixing)
    recorded = json.loads((tmp_path / "made" / "results.json").read_text())["recipe"]
    assert recorded["mixing"] == {"unanswerable": 0.5, "others": None, "repeat": 1, "seed": 1}


def paragraph(number):
    question, context, answer = ROWS[number]
    answers = [{"text": answer, "answer_start": context.find(answer)}] if number else []
    one = {"id": str(number), "question": question, "answers": answers}
    return {"context": context, "qas": [one]}


def question(answer, start, context="the film was not dull and the book was a superb meal"):
    answers = () if answer is None else (Answer(answer, start),)
    return Question(id="1", question="was it", context=context, answers=answers, source="")


def test_windows_without_the_whole_answer_have_none(base):
    tokenizer = Answerer.fresh(base, WINDOWS).tokenizer
    one = question("film", 4)
    windows, spans = training_windows(tokenizer, [one], WindowConfig(max_length=11, stride=3))
    found = [
        one.context[slice(*window.characters(*span))]
        for window, span in zip(windows, spans, strict=True)
        if span != (0, 0)
    ]
    assert len(windows) > 2
    assert found == ["film"]


def test_answers_that_are_no_spans_are_not_taken_for_no_answer(base):
    tokenizer = Answerer.fresh(base, WINDOWS).tokenizer
    questions = [question("film dull", None), question(None, None)]
    windows, spans = training_windows(tokenizer, questions, WINDOWS)
    assert ([window.row for window in windows], spans) == ([0], [(0, 0)])
    with pytest.raises(DataError, match="none of 1 questions has an answer that is part of its"):
        training_windows(tokenizer, questions[:1], WINDOWS)


def test_tables_have_the_place_of_an_answer_looked_up(tmp_path):
    rows = [("who", "a film and a film", "film"), ("what", "a film", "book")]
    path = write_table(tmp_path / "my.csv", rows, ("q", "passage", "a"))
    columns = {"question": "q", "context": "passage", "answer": "a"}
    one, other = Source(TASK, columns).read(str(path), "train")
    assert (one.span, other.span) == (Answer("film", 2), None)
    assert other.answers == (Answer("book", None),)
    with pytest.raises(DataError, match=r"has no column 'question'; its columns are 'q'"):
        Source(TASK, {}).read(str(path), "train")


def test_no_passage_is_in_two_splits(table):
    splits = read_splits(TASK, DataConfig(train=(str(table),), validation_fraction=0.25))
    train_passages, held_out = ({one.context for one in part} for part in list(splits)[:2])
    assert (len(train_passages), len(held_out)) == (30, 10)
    assert not train_passages & held_out


def test_what_is_refused_before_anything_is_read(fit, base, tmp_path):
    made = tmp_path / "made"
    with pytest.raises(ConfigError, match=r"smoothing = 0\.1; expected 0"):
        fit(made, training={"smoothing": 0.1})
    with pytest.raises(ConfigError, match="output and base are both"):
        fit(base)
    with pytest.raises(ConfigError, match=r"base = null with .* expected base, the pretrained"):
        fit(made, base=None)
    with pytest.raises(ConfigError, match="data names qamr:train twice"):
        fit(made, data=DataConfig(train=("qamr",), test="qamr:train"))
    for options, message in (
        ({"train": ()}, "data.train is empty"),
        ({"limit": 0}, "data.limit = 0"),
        ({"validation_fraction": 1.0}, "data.validation_fraction = 1.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            DataConfig(**{"train": ("qamr",)} | options)

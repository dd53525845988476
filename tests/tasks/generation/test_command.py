"""`qkv generate`: arguments, what is printed, and what is refused."""

import io
import json
import shutil
import sys

import pytest
import torch
from tests.helpers import randomized
from tests.tasks.small import load_in_float64

from qkv.cli import main
from qkv.data.tokenizers import Tokenizer
from qkv.generation.sampling import Sampling
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks import pipeline
from qkv.tasks.generation import Generator
from qkv.tasks.pretrained import Loaded, save

TEXT = "to be or not to be, that is the question"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = Tokenizer.train_characters([TEXT]).begin_with_stop()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, d_model=12, n_heads=2, d_ff=13, n_layers=1, n_positions=19
    )
    folder = tmp_path_factory.mktemp("made") / "model"
    llama = randomized(Llama(config), torch.float32)
    save(Loaded(llama, tokenizer), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    load_in_float64(monkeypatch, pipeline)


@pytest.fixture
def qkv(capsys):
    def run(*arguments, status=0):
        try:
            found = main([str(argument) for argument in arguments])
        except SystemExit as end:
            found = end.code
        captured = capsys.readouterr()
        assert found == status, captured.err
        return captured.err if status else captured.out

    return run


def test_one_prompt_is_streamed_as_the_generator_says(qkv, model):
    options = ("--max_length", "23", "--seed", "11", "--temperature", "0.7", "--top_k", "5")
    expected = Generator.load(model)(
        "to be", max_length=23, seed=11, sampling=Sampling(temperature=0.7, top_k=5)
    )
    assert len(expected.text) > 3
    assert qkv("generate", "-m", model, "to be", *options) == f"to be{expected.text}\n"
    said = json.loads(qkv("generate", "-m", model, "to be", *options, "--json"))
    assert said["text"] == expected.text
    assert said["logprobs"] == pytest.approx(expected.logprobs, abs=1e-9)
    assert list(said) == ["prompt", "text", "tokens", "logprobs", "ended", "seed"]
    two = qkv("generate", "-m", model, "to be", *options, "--n", "2").split("\n---\n")
    assert two[0] == f"to be{expected.text}\n"
    assert two[1] != two[0]
    lines = qkv("generate", "-m", model, "to be", *options, "--n", "2", "--json").splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [11, 12]
    assert f"to be{json.loads(lines[1])['text']}\n" == two[1]


def test_an_empty_prompt_begins_a_text(qkv, model):
    found = json.loads(qkv("generate", "-m", model, "", "--json", "--max_length", "7"))
    assert found["prompt"] == ""
    assert found["tokens"]


def test_several_prompts_have_a_line_each_and_a_broken_one_stops_no_other(
    qkv, model, tmp_path, capsys
):
    (tmp_path / "mine.jsonl").write_text('{"text": "to"}\n{"text": ""}\n{"text": "or not"}\n')
    status = main(
        ["generate", "-m", model, "-f", str(tmp_path / "mine.jsonl"), "--max_length", "5"]
    )
    captured = capsys.readouterr()
    assert status == 2
    lines = captured.out.split("\n")
    assert len(lines) == 4
    assert lines[0].startswith("to")
    assert lines[1] == ""
    assert lines[2].startswith("or not")
    assert "mine.jsonl, line 2" in captured.err


def test_lines_of_standard_input(qkv, model, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"to\nbe\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)
    lines = qkv("generate", "-m", model, "--max_length", "3", "--json").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["to", "be"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "temperature is -1.0, expected at least 0"),
        (["--top_p", "0"], "top_p is 0.0, expected a share in (0, 1]"),
        (["--top_p", "1.5"], "top_p is 1.5, expected a share in (0, 1]"),
        (["--top_k", "0"], "top_k is 0, expected at least 1"),
        (["--max_length", "0"], "max_length is 0, expected at least 1"),
        (["--n", "0"], "n = 0; expected at least 1 text for each prompt"),
        (["--lookup", "--json"], "--lookup for 1 prompts with --json; expected a single prompt"),
        (["--file", "x.txt"], "expected one of the two"),
        (
            ["generator"],
            "the text 'generator' is the name of a model: did you mean",
        ),
    ],
)
def test_what_cannot_be_is_refused(qkv, model, options, message):
    assert message in qkv("generate", "-m", model, "to be", *options, status=2)


def test_of_a_prompt_that_is_too_long_the_part_that_is_read_is_said_beside(model, capsys):
    long = "to be or not to be, " * 20
    for inputs in ([long], [long, "to be"]):
        assert main(["generate", "-m", model, *inputs, "--max_length", "3"]) == 0
        said = capsys.readouterr().err
        message = "tokens, of which the model read the last 9\n"
        assert said.startswith("qkv: 'to be or not to be, to be or not to ...': 4")
        assert said.endswith(message)
        assert said.count("\n") == 1


def test_what_is_not_given_is_as_the_files_say(qkv, model, tmp_path):
    usual = json.loads(qkv("generate", "-m", model, "to be", "--json", "--seed", "3"))
    options = ("--json", "--seed", "3", "--temperature", "0.8", "--max_length", "200")
    assert json.loads(qkv("generate", "-m", model, "to be", *options)) == usual
    folder = shutil.copytree(model, tmp_path / "ruled")
    said = {"do_sample": True, "temperature": 0.5, "top_k": 3, "max_new_tokens": 6}
    (folder / "generation_config.json").write_text(json.dumps(said))
    ruled = json.loads(qkv("generate", "-m", folder, "to be", "--json", "--seed", "3"))
    options = ("--json", "--seed", "3", "--temperature", "0.5", "--top_k", "3", "--max_length", "6")
    assert json.loads(qkv("generate", "-m", model, "to be", *options)) == ruled
    one = json.loads(
        qkv("generate", "-m", folder, "to be", "--json", "--seed", "3", "--temperature", "0")
    )
    options = ("--json", "--seed", "3", "--temperature", "0", "--max_length", "6")
    assert json.loads(qkv("generate", "-m", model, "to be", *options)) == one
    (folder / "generation_config.json").write_text('{"num_beams": 2}')
    assert "num_beams = 2" in qkv("generate", "-m", folder, "to be", status=2)


def test_several_texts_of_greedy_decoding_are_refused(qkv, model):
    error = qkv("generate", "--model", model, "--temperature", "0", "--n", "3", "to be", status=2)
    assert "n = 3 with greedy decoding writes the same text 3 times; expected a temp" in error

"""`qkv train aeslc.yaml`: what is learned, what is written, and runs that are killed."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import GOOD, THINGS, write_base, write_table

import qkv.tasks.summarization.recipe as recipes
from qkv.data.batches import Batching
from qkv.data.summaries import Summarized
from qkv.data.summary_batches import summary_batches
from qkv.errors import ConfigError, DataError
from qkv.tasks.pretrained import load
from qkv.tasks.recipe import Training
from qkv.tasks.summarization.data import Summaries, read_summaries
from qkv.tasks.summarization.model import Decoder
from qkv.tasks.summarization.recipe import choose_penalty, train_summarizer
from qkv.tasks.summarization.summarizer import Summarizer, Writing

# The summary is the thing of the text: it can be copied.
ROWS = [(f"the {thing} was not {word} and a", thing) for thing in THINGS for word in GOOD]
DECODER = Decoder(d_model=26, n_heads=13, d_ff=31, n_layers=1, dropout=0.0)
TRAINING = {
    "epochs": 2.0,
    "max_tokens": 101,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "warmup": 0.0,
    "save_every": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_table(folder / "my.csv", ROWS, ("text", "summary"))


@pytest.fixture
def fit(base, table):
    """Train into a folder; returns it."""

    def run(output, **training):
        with unchecked():
            train_summarizer(
                output=output,
                base=str(base),
                data=Summaries(train=str(table), validation_share=0.25),
                decoder=DECODER,
                writing=Writing(max_source=11, max_length=5, beam=2),
                training=Training(**TRAINING | training),
                device="cpu",
            )
        return output

    return run


def test_it_learns_and_writes_what_loads(fit, tmp_path, base, capsys):
    made = fit(tmp_path / "made", epochs=20.0)
    content = json.loads((made / "results.json").read_text())
    assert content["test"] is None
    assert content["validation"]["count"] == 10
    assert content["validation"]["rouge1"]["f1"] > 60
    summarizer = Summarizer.load(made)
    assert summarizer.writing.length_penalty == content["length penalty"]
    weights = load(base).model.state_dict()
    for name, p in summarizer.model.encoder.named_parameters():
        assert torch.equal(p, weights[name]), name
    alone = Summarizer.load(tmp_path / "made.training" / "decoder")
    assert [one.summary for one in alone(["the soup was fine", "a book"])] == [
        one.summary for one in summarizer(["the soup was fine", "a book"])
    ]
    assert f"try it: qkv summarize --model {made} 'a text'" in capsys.readouterr().out


def test_a_run_that_is_killed_goes_on_to_the_same_weights(fit, tmp_path, monkeypatch):
    whole = load_file(fit(tmp_path / "whole") / "model.safetensors")
    calls, original = itertools.count(1), recipes.summary_loss

    def loss(model, batch):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "summary_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    resumed = load_file(fit(tmp_path / "made") / "model.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_the_penalty_is_the_one_with_the_highest_rouge(base, monkeypatch):
    summarizer = Summarizer.fresh(base, Writing(max_source=11, max_length=5), DECODER)
    monkeypatch.setattr(recipes, "PENALTIES", (0.0, 0.5, 7.0))

    def summaries(self, texts, progress=False):
        said = "the film was" if self.writing.length_penalty == 0.5 else "no"
        return [Said(said) for _ in texts]

    monkeypatch.setattr(Summarizer, "__call__", summaries)
    chosen = choose_penalty(summarizer, [Summarized("a", ("the film was fine",))] * 3)
    assert chosen.writing == Writing(max_source=11, max_length=5, length_penalty=0.5)
    # What only other summaries say does not count.
    chosen = choose_penalty(summarizer, [Summarized("a", ("film was fine", "no"))] * 3)
    assert chosen.writing.length_penalty == 0.5


class Said:
    def __init__(self, summary):
        self.summary = summary


def test_batches_shift_the_summary_and_pad_what_the_encoder_said():
    features = [torch.full((n, 3), float(n), dtype=torch.float16) for n in (2, 5)]
    sources, targets = [[7, 8], [9, 10, 11, 12, 13]], [[21, 22, 3], [23, 3]]
    (batch,) = summary_batches(
        features, sources, targets, pad=0, start=2, batching=Batching(max_tokens=10)
    )
    first = int(batch.source_mask.sum(1).argmin())
    assert batch.features.dtype == torch.float32
    assert batch.features[first].tolist() == [[2.0] * 3] * 2 + [[0.0] * 3] * 3
    assert batch.source[first].tolist() == [7, 8, 0, 0, 0]
    assert batch.target_input[first].tolist() == [2, 21, 22]
    assert batch.target[first].tolist() == [21, 22, 3]
    assert batch.target_input[1 - first].tolist() == [2, 23, 0]
    assert batch.target_mask.sum() == batch.n_targets == 5


def test_sources_of_texts(tmp_path):
    path = write_table(tmp_path / "my.csv", [("a film", "film")], ("body", "subject"))
    columns = {"text": "body", "summary": "subject"}
    assert read_summaries(str(path), "train", columns=columns) == [Summarized("a film", ("film",))]
    with pytest.raises(DataError, match="has no column 'text'"):
        read_summaries(str(path), "train")
    with pytest.raises(DataError, match="no split 'dev' of aeslc"):
        read_summaries("aeslc", "dev")


def test_what_is_refused_before_anything_is_read(fit, base, tmp_path):
    with pytest.raises(ConfigError, match=r"smoothing = 0\.1; expected 0"):
        fit(tmp_path / "made", smoothing=0.1)
    with pytest.raises(ConfigError, match=r"batch_size = 3; expected training\.max_tokens"):
        fit(tmp_path / "made", batch_size=3, max_tokens=None)
    with pytest.raises(ConfigError, match="output and base are both"):
        train_summarizer(output=base, base=str(base))
    for options, said in (
        ({"limit": 0}, r"data\.limit = 0"),
        ({"validation_share": 1.0}, r"data\.validation_share = 1\.0"),
        ({"validation": "docstrings:train"}, "data names docstrings:train twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            Summaries(**options)

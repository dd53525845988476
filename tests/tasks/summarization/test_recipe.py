"""`qkv train` of a summarizer: what is learned and written, killed runs, what is refused."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import unchecked
from tests.tasks.small import FILES, GOOD, THINGS, results, write_base, write_table

import qkv.tasks.summarization as recipes
from qkv.data.batches import Batching
from qkv.data.summaries import Summarized
from qkv.data.summary_batches import summary_batches
from qkv.errors import ConfigError, DataError
from qkv.tasks.decoding import DecodingConfig
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.frozen_encoder import DecoderConfig
from qkv.tasks.pretrained import load
from qkv.tasks.splits import DataConfig, Source, read_splits
from qkv.tasks.summarization import (
    TASK,
    SummarizationRecipe,
    Summarizer,
    Summary,
    choose_penalty,
)
from qkv.tasks.train import train
from qkv.training.settings import Training

# The summary is the thing of the text: it can be copied.
ROWS = [(f"the {thing} was not {word} and a", thing) for thing in THINGS for word in GOOD]
DECODER = DecoderConfig(d_model=26, n_heads=13, d_ff=31, n_layers=1, dropout=0.0)
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
def recipe(base, table, tmp_path):
    """A recipe; fields of `training` may be replaced, too."""

    def make(output="made", *, training=None, **fields):
        own = {"base": str(base), "decoder": DECODER}
        own["decoding"] = DecodingConfig(max_source=11, max_length=5, beam=2)
        return SummarizationRecipe(
            output=tmp_path / output,
            data=DataConfig(train=str(table), validation_fraction=0.25),
            training=Training(**TRAINING | (training or {})),
            device="cpu",
            **own | fields,
        )

    return make


@pytest.fixture
def fit():
    """Train into a folder; returns it."""

    def run(recipe):
        with unchecked():
            train(TASK, recipe)
        return recipe.output

    return run


def test_it_learns_and_writes_what_loads(fit, recipe, tmp_path, base, capsys):
    made = fit(recipe(training={"epochs": 20.0}))
    content = results(made)
    assert "test" not in content
    assert content["trained_parameters"] < content["parameters"]
    assert content["validation"]["count"] == 10
    assert content["validation"]["rouge1"]["f1"] > 60
    summarizer = Summarizer.load(made)
    assert summarizer.config.length_penalty == content["length_penalty"]
    weights = load(base).model.state_dict()
    for name, p in summarizer.model.encoder.named_parameters():
        assert torch.equal(p, weights[name]), name
    alone = Summarizer.load(tmp_path / "made.training" / "decoder")
    assert [one.summary for one in alone(["the soup was fine", "a book"])] == [
        one.summary for one in summarizer(["the soup was fine", "a book"])
    ]
    assert f"try it: qkv summarize --model {made} 'a text'" in capsys.readouterr().out


def test_a_run_that_is_killed_goes_on_to_the_same_weights(fit, recipe, tmp_path, monkeypatch):
    whole = load_file(fit(recipe("whole")) / "model.safetensors")
    calls, original = itertools.count(1), recipes.summary_loss

    def loss(model, batch):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "summary_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(recipe())
    assert not (tmp_path / "made").exists()
    resumed = load_file(fit(recipe()) / "model.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_the_penalty_is_the_one_with_the_highest_rouge(base, monkeypatch):
    decoding = DecodingConfig(max_source=11, max_length=5)
    summarizer = Summarizer.fresh(base, decoding, DECODER)
    monkeypatch.setattr(recipes, "PENALTIES", (0.0, 0.5, 7.0))

    def summaries(self, texts, progress=False):
        text = "the film was" if self.config.length_penalty == 0.5 else "no"
        return [Summary("", text, 0.0, False) for _ in texts]

    monkeypatch.setattr(Summarizer, "predict", summaries)
    chosen = choose_penalty(summarizer, [Summarized("a", ("the film was fine",))] * 3)
    assert chosen.config == replace(decoding, length_penalty=0.5)
    # What only other summaries say does not count.
    chosen = choose_penalty(summarizer, [Summarized("a", ("film was fine", "no"))] * 3)
    assert chosen.config.length_penalty == 0.5


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
    source = Source(TASK, {"text": "body", "summary": "subject"})
    assert source.read(str(path), "train") == [Summarized("a film", ("film",))]
    with pytest.raises(DataError, match="has no column 'text'"):
        Source(TASK, {}).read(str(path), "train")
    with pytest.raises(DataError, match="no split 'dev' of aeslc"):
        Source(TASK, {}).read("aeslc", "dev")


def test_what_is_refused_before_anything_is_read(recipe, base):
    with pytest.raises(ConfigError, match=r"smoothing = 0\.1; expected 0"):
        recipe(training={"smoothing": 0.1}).check()
    batched = {"batch_size": 3, "max_tokens": None}
    message = r"batch_size = 3; SummarizationRecipe needs training\.max_tokens instead"
    with pytest.raises(ConfigError, match=message):
        recipe(training=batched).check()
    with pytest.raises(ConfigError, match="output and base are both"):
        recipe(output=base).check()
    with pytest.raises(ConfigError, match=r"base = null .* expected base, the pretrained model"):
        recipe(base=None).check()
    with pytest.raises(ConfigError, match="scratch; expected another value: summarizers start"):
        recipe(finetuning=FineTuning(train="scratch")).check()


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A BART that writes, with its own settings."""
    folder = write_base(tmp_path_factory.mktemp("bart") / "base", "bart", files=FILES)
    ids = {"decoder_start_token_id": 3, "eos_token_id": 3, "num_beams": 3, "max_length": 9}
    rules = {"no_repeat_ngram_size": 2, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(ids | rules))
    return folder


@pytest.mark.parametrize("trains", ["all", "lora"])
def test_a_bart_is_trained_on_and_keeps_its_other_settings(fit, recipe, bart, tmp_path, trains):
    decoding = DecodingConfig(max_source=11, beam=2, prefix="a ")
    made = fit(
        recipe(
            base=str(bart),
            decoder=DecoderConfig(),
            decoding=decoding,
            finetuning=FineTuning(train=trains),
            training={"epochs": 6.0},
        )
    )
    summarizer, found = Summarizer.load(made), results(made)
    settings = summarizer.config
    assert (settings.max_source, settings.beam, settings.prefix) == (11, 2, "a ")
    assert (settings.max_length, summarizer.decoding.sampling.no_repeat_ngram) == (8, 2)
    assert settings.length_penalty == found["length_penalty"]
    scores = summarizer.evaluate(read_splits(TASK, recipe().data).validation)
    assert scores.rouge1.f1 == found["validation"]["rouge1"]["f1"]
    assert (found["trained_parameters"] < found["parameters"]) == (trains == "lora")
    assert (tmp_path / "made.training" / "adapter").exists() == (trains == "lora")
    before, after = (load_file(folder / "model.safetensors") for folder in (bart, made))
    assert any((before[name] != tensor).any() for name, tensor in after.items())


def test_fields_of_the_other_kind_of_base_are_refused(fit, recipe, base, bart):
    for fields, words in (
        ({"base": str(bart)}, f"base = {bart} with decoder; .* it has its own decoder"),
        ({"finetuning": FineTuning(train="lora")}, f"base = {base} with finetuning; .* frozen"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(recipe(**fields))

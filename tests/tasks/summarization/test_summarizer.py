"""Summaries as a library and as a command: one equals many, what is cut, other kinds of models."""

import io
import json
import sys
from dataclasses import asdict, replace

import pytest
import torch
from tests.helpers import unchecked
from tests.tasks.small import FILES, SPECIAL, VOCABULARY, sentences, write_base, write_table

from qkv.data.summaries import Summarized
from qkv.errors import ConfigError, DataError
from qkv.evaluation.summarization import summary_scores
from qkv.generation.greedy import greedy
from qkv.generation.processors import allowed_tokens
from qkv.models.pointer_generator import PointerGenerator
from qkv.tasks.decoding import DecodingConfig
from qkv.tasks.frozen_encoder import DecoderConfig, frozen_features, write_decoder
from qkv.tasks.pretrained import load, save
from qkv.tasks.summarization import TASK, Summarize, Summarizer

TEXTS = [text for text, _ in sentences(7)] + ["the film was fine and the meal was not rude ."]
DECODER = DecoderConfig(d_model=26, n_heads=13, d_ff=31, n_layers=2, dropout=0.0)
CONFIG = DecodingConfig(max_source=9, max_length=7, beam=3, length_penalty=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    torch.manual_seed(1)
    summarizer = Summarizer.fresh(base, CONFIG, DECODER)
    with torch.no_grad():
        for name, p in summarizer.model.named_parameters():
            if not name.startswith("encoder.") and p.ndim > 1:
                p *= 20  # of opinions
    folder = tmp_path_factory.mktemp("made") / "model"
    save(summarizer.loaded, folder)
    return folder


@pytest.fixture
def summarizer(folder):
    one = Summarizer.load(folder)
    one.model.double()
    return one


def test_what_was_saved_writes_the_same_way(summarizer):
    assert summarizer.config == CONFIG
    assert isinstance(summarizer.model, PointerGenerator)
    assert summarizer.model.config.d_model == 26


def test_the_encoder_is_that_of_the_base(base, folder):
    weights = load(base).model.state_dict()
    for name, p in Summarizer.load(folder).model.encoder.named_parameters():
        assert torch.equal(p, weights[name]), name
    fresh = Summarizer.fresh(base, CONFIG, DECODER).model
    trained = {name.partition(".")[0] for name, p in fresh.named_parameters() if p.requires_grad}
    assert trained == {"memory", "input", "decoder", "query", "key", "gate", "output", "bias"}


def test_one_text_equals_many_and_the_order_is_kept(summarizer):
    many = summarizer(TEXTS)
    assert len({one.summary for one in many}) > 2
    for text, one in zip(TEXTS, many, strict=True):
        alone = summarizer(text)
        assert (alone.text, alone.summary, alone.cut) == (text, one.summary, one.cut)
        assert alone.score == pytest.approx(one.score, rel=1e-10)
    assert summarizer([]) == []
    with pytest.raises(DataError, match="text 2 is a int; expected a string"):
        summarizer(["a film", 7])
    assert json.loads(json.dumps(asdict(many[0])))["text"] == TEXTS[0]


def test_a_text_that_is_too_long_counts_by_its_beginning_and_is_said_to_be_cut(summarizer):
    whole, longer = "the film was fine and the meal", "the film was fine and the meal was not rude"
    one, other = summarizer([whole, longer])
    assert (one.cut, other.cut) == (False, True)
    assert one.summary == other.summary


def test_a_beam_of_one_is_greedy(summarizer):
    one = replace(summarizer, config=replace(CONFIG, beam=1))
    ids = torch.tensor(one.encode(TEXTS[:1]).ids)
    start, stop = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    words = {*range(len(VOCABULARY))} - {VOCABULARY.index(name) for name in SPECIAL} | {stop}
    only = [allowed_tokens(lambda tokens: words)]
    options = {"start": start, "stop": stop, "max_length": 7, "processors": only}
    tokens = greedy(one.model, ids, **options)[0]
    assert one(TEXTS[0]).summary == one.tokenizer.decode(tokens.tolist())


def test_features_are_what_the_encoder_says_of_each_text(summarizer):
    sources = summarizer.encode(TEXTS).ids
    found = frozen_features(summarizer.model, sources, pad=0, device="cpu")
    for ids, features in zip(sources, found, strict=True):
        expected = summarizer.model.encode(torch.tensor([ids]))[0].half()
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_the_decoder_alone_joins_its_encoder(folder, tmp_path):
    write_decoder(folder, tmp_path / "alone")
    files = {path.name for path in (tmp_path / "alone").iterdir()}
    assert files == {"config.json", "decoder.safetensors"}
    joined, whole = Summarizer.load(tmp_path / "alone"), Summarizer.load(folder)
    assert joined.config == whole.config
    for (name, p), other in zip(
        joined.model.named_parameters(), whole.model.parameters(), strict=True
    ):
        assert torch.equal(p, other if name.startswith("encoder.") else other.half().float())
    config = json.loads((tmp_path / "alone" / "config.json").read_text())
    (tmp_path / "alone" / "config.json").write_text(json.dumps(config | {"_name_or_path": ""}))
    with pytest.raises(DataError, match=r"has only a decoder, but config\.json lacks _name_or"):
        Summarizer.load(tmp_path / "alone")


def test_scores_count_all_references(summarizer):
    said = [one.summary for one in summarizer(TEXTS)]
    examples = [
        Summarized(text, ("nothing like it", summary))
        for text, summary in zip(TEXTS, said, strict=True)
    ]
    scores = summarizer.evaluate(examples)
    assert scores == summary_scores(said, [one.summaries for one in examples])
    assert scores.rouge1.f1 > 50


def test_what_cannot_be_summarized(summarizer, base, tmp_path):
    with unchecked():
        with pytest.raises(DataError, match=r"text 2 has no tokens: ' ' \(is it empty\?\)"):
            summarizer(["a film", " "])
        with pytest.raises(DataError, match="0 summaries and 0 references"):
            summarizer.evaluate([])
    with pytest.raises(ConfigError, match="is a Bert with a tokenizer; expected a model that wri"):
        Summarizer.load(base, method="model")
    with pytest.raises(ConfigError, match="is a ViT with no tokenizer; expected a BERT without"):
        Summarizer.fresh(write_base(tmp_path / "vit", "vit", files={}))
    with pytest.raises(ConfigError, match=r"max_source = 42, but .* for 41 tokens"):
        Summarizer.fresh(base, DecodingConfig(max_source=42), DECODER)
    with pytest.raises(ConfigError, match="beam = 0; expected at least 1"):
        DecodingConfig(beam=0)


def test_a_published_bart_summarizes(tmp_path):
    folder = write_base(tmp_path / "bart", "bart", files=FILES)
    config = json.loads((folder / "config.json").read_text())
    ids = {"decoder_start_token_id": 3, "eos_token_id": 3, "forced_bos_token_id": 2}
    said = {"task_specific_params": {"summarization": {"num_beams": 2, "max_length": 5}}}
    (folder / "config.json").write_text(json.dumps(config | ids | said))
    with pytest.raises(ConfigError, match="max_source = 512, but this Bart has learned positions"):
        Summarizer.load(folder)
    said["task_specific_params"]["summarization"]["max_source"] = "11"
    (folder / "config.json").write_text(json.dumps(config | ids | said))
    with pytest.raises(ConfigError, match="max_source = '11'; expected a whole number of at least"):
        Summarizer.load(folder)
    said["task_specific_params"]["summarization"]["max_source"] = 11
    (folder / "config.json").write_text(json.dumps(config | ids | said))
    summarizer = Summarizer.load(folder)
    assert (summarizer.config.beam, summarizer.config.max_length) == (2, 4)
    assert len(summarizer.tokenizer.encode(summarizer(TEXTS[0]).summary)) <= 5


def test_a_published_bart_follows_its_own_rules(tmp_path):
    folder = write_base(tmp_path / "bart", "bart", files=FILES)
    config = json.loads((folder / "config.json").read_text())
    own = {"task_specific_params": {"summarization": {"max_source": 11, "min_length": 8}}}
    (folder / "config.json").write_text(json.dumps(config | own))
    said = {"decoder_start_token_id": 3, "eos_token_id": [3], "num_beams": 3, "max_length": 9}
    rules = {"no_repeat_ngram_size": 1, "length_penalty": 2.0, "early_stopping": True}
    (folder / "generation_config.json").write_text(json.dumps(said | rules))
    summarizer = Summarizer.load(folder)
    settings = summarizer.config
    assert (settings.max_length, settings.beam, settings.length_penalty) == (8, 3, 2.0)
    for ids in summarizer.encode(TEXTS).ids:
        [[best]] = summarizer.decoder(summarizer.model, [ids], rows=9)
        assert 7 <= len(best.text) <= 8
        assert len(set(best.text)) == len(best.text)
    assert Summarizer.load(folder, beam=1).config.beam == 1
    changed = Summarizer.load(folder, max_source=7, prefix="a", max_length=5, beam=2)
    save(changed.noted().loaded, tmp_path / "noted")
    again = Summarizer.load(tmp_path / "noted")
    assert again.config == changed.config
    assert again.decoding.min_length == changed.decoding.min_length == 8
    (folder / "generation_config.json").write_text(json.dumps(said | {"do_sample": True}))
    with pytest.raises(ConfigError, match="do_sample = true, but this task does not sample"):
        Summarizer.load(folder)
    Summarizer.load(folder, beam=2)
    (folder / "generation_config.json").write_text(json.dumps(said | {"eos_token_id": []}))
    with pytest.raises(ConfigError, match=r"eos_token_id = \[\]; expected an id each"):
        Summarizer.load(folder)


def test_the_command_answers_arguments_files_and_input(folder, tmp_path, capsys, monkeypatch):
    def summarize(*texts, **options):
        Summarize(model=str(folder), device="cpu", **options).run(TASK, texts)

    expected = "".join(f"{one.summary}\n" for one in Summarizer.load(folder)(TEXTS))
    summarize(*TEXTS)
    assert capsys.readouterr().out == expected
    table = write_table(tmp_path / "my.csv", [(text,) for text in TEXTS], ("mail",))
    summarize(file=table, columns={"text": "mail"})
    assert capsys.readouterr().out == expected
    content = io.BytesIO(TEXTS[0].encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content, encoding="ascii"))
    summarize()
    assert capsys.readouterr().out == expected.partition("\n")[0] + "\n"
    summarize(TEXTS[0], json=True, beam=1)
    one = json.loads(capsys.readouterr().out)
    assert list(one) == ["text", "summary", "score", "cut", "method", "note"]
    assert one["method"] == "model"
    summarize("the film was fine and the meal was not rude")
    said = capsys.readouterr()
    message = (
        "'the film was fine and the meal was ...': too long; the model read only its beginning"
    )
    assert said.err == f"qkv: {message}\n"
    with pytest.raises(DataError, match="1 of 2 inputs have no result"):
        summarize(" ", TEXTS[0])
    said = capsys.readouterr()
    assert (said.out, "argument 1: empty" in said.err) == (
        f"\n{expected.splitlines()[0]}\n",
        True,
    )
    with pytest.raises(DataError, match="has no column 'text'; its columns are 'mail'"):
        summarize(file=table)

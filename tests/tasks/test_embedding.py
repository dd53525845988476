"""`qkv embed`: vectors as sentence-transformers computes them, laws, files, and bad input."""

import json

import numpy as np
import pytest
import sentence_transformers
import torch
from tests.helpers import assert_as_exact
from tests.tasks.small import FILES, write_base, write_classifier

import qkv
from qkv.cli import main
from qkv.data.labels import Labels
from qkv.errors import ConfigError, DataError
from qkv.tasks.embedding import Embedder
from qkv.tasks.pretrained import load
from qkv.zoo.catalog import MINILM, ZOO

TEXTS = [
    "Where is my parcel?",
    "I was charged twice for the same order.",
    "Attention is a mean. " * 97,  # longer than 256 tokens
    "é",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
]
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
KINDS = ["Transformer", "Pooling", "Normalize"]


def pooled(pooling, kinds=KINDS, **settings):
    """The files of a folder of sentence-transformers."""
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in zip(paths, kinds, strict=False)
    ]
    return FILES | {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps(pooling).encode(),
        "sentence_bert_config.json": json.dumps(settings).encode(),
    }


@pytest.fixture
def folder(tmp_path):
    return write_base(tmp_path / "base")


def in_float64(folder, **options):
    return Embedder.of(load(folder, dtype=torch.float64), **options)


def test_vectors_are_those_of_sentence_transformers():
    path = str(ZOO[MINILM].locate())
    theirs = sentence_transformers.SentenceTransformer(path, device="cpu")
    embed = qkv.task("embed")
    assert (embed.max_length, embed.pool) == (theirs.max_seq_length, "mean") == (256, "mean")
    ours, expected = torch.tensor(embed(TEXTS)), torch.tensor(theirs.encode(TEXTS))
    exact = torch.tensor(theirs.to(torch.float64).encode(TEXTS))
    assert ours.dtype == torch.float32
    assert_as_exact(ours, expected, exact)
    ours = torch.tensor(in_float64(path)(TEXTS))
    assert (ours - exact).abs().max() <= 1e-12 * exact.abs().max()


def test_a_row_per_text_in_order_of_length_one(folder):
    embed = in_float64(folder)
    texts = ["the film was fine", "soup", "a book and a tool and a plot .", "the the", "soup"]
    together = embed(texts)
    assert together.shape == (5, 22)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-14)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(embed(text), row, rtol=0, atol=1e-13)
    assert len(np.unique(together.round(9), axis=0)) == 4
    assert Embedder.load(folder)(texts).dtype == np.float32


def test_the_files_of_sentence_transformers_are_honored(tmp_path):
    mean = write_base(tmp_path / "mean", files=pooled(MEAN, max_seq_length=7))
    first = write_base(tmp_path / "first", files=pooled({"pooling_mode": "cls"}, KINDS[:2]))
    averaged, of_first = in_float64(mean), in_float64(first)
    assert (averaged.max_length, averaged.pool) == (7, "mean")
    assert (of_first.max_length, of_first.pool) == (41, "first")
    text = "the film was fine"
    ids = torch.tensor([averaged.tokenizer.add_special_tokens(averaged.tokenizer.encode(text)).ids])
    with torch.inference_mode():
        states = averaged.model(ids)[0]
    for made, row in ((averaged, states.mean(0)), (of_first, states[0])):
        np.testing.assert_allclose(made(text), (row / row.norm()).numpy(), atol=1e-13)
    assert in_float64(mean, max_length=5).max_length == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (pooled({"pooling_mode_max_tokens": True}), "has pooling_mode = 'max_tokens'; expected me"),
        (pooled(MEAN | {"pooling_mode_cls_token": True}), r"pooling_mode = \['cls_token', 'mean_t"),
        (pooled({}), r"1_Pooling/config.json has pooling_mode = \[\]; expected mean or cls, alone"),
        (pooled(MEAN | {"pooling_mode_cls_token": 3}), "pooling_mode_cls_token = 3; expected true"),
        (pooled(MEAN, [*KINDS[:2], "Dense"]), "modules Transformer, Pooling, Dense; expected only"),
        (pooled(MEAN, max_seq_length="x"), "sentence_bert_config.json: max_seq_length = 'x'; expe"),
        (pooled(MEAN) | {"modules.json": b"{}"}, "modules = {}; expected a list, each an obj"),
        (pooled(MEAN) | {"modules.json": b"["}, "modules.json is not JSON: "),
        (FILES | {"modules.json": b"[]"}, "has modules.json, but no 1_Pooling/config.json; expec"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, files, message):
    write_base(tmp_path / "base", files=files)
    with pytest.raises((ConfigError, DataError), match=message):
        Embedder.load(tmp_path / "base")


def test_what_cannot_be_embedded(folder, tmp_path):
    embed = Embedder.load(folder)
    with pytest.raises(DataError, match=r"text 2 has no tokens: ' ' \(is it empty\?\)"):
        embed(["a film", " "])
    with pytest.raises(DataError, match="text 1 is a int; expected a string"):
        embed(7)
    with pytest.raises(ConfigError, match="max_length = 42, but this Bert has learned positions "):
        Embedder.load(folder, max_length=42)
    write_classifier(tmp_path / "made", Labels(["bad", "good"]), folder)
    with pytest.raises(ConfigError, match="is a SequenceClassifier with a tokenizer; expected an "):
        Embedder.load(tmp_path / "made")


def test_the_command_prints_or_writes_vectors(folder, tmp_path, capsys):
    texts = ["the film was fine", "soup " * 50]
    rows = Embedder.load(folder)(texts)
    assert main(["embed", "-m", str(folder), *texts]) == 0
    out, err = capsys.readouterr()
    printed = [json.loads(line) for line in out.splitlines()]
    assert [one["text"] for one in printed] == texts
    assert np.array_equal(np.float32([one["vector"] for one in printed]), rows)
    note = "52 tokens, of which the model read the first 41"
    assert [one["note"] for one in printed] == ["", note]
    assert note in err

    (tmp_path / "docs.txt").write_text("\n".join(texts))
    options = ["-m", str(folder), "--file", str(tmp_path / "docs.txt"), "--output"]
    assert main(["embed", *options, str(tmp_path / "v.npy")]) == 0
    assert "2 vectors of 22 numbers written to " in capsys.readouterr().err
    assert np.array_equal(np.load(tmp_path / "v.npy"), rows)
    assert main(["embed", *options, str(tmp_path / "v.jsonl")]) == 0
    written = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert written == printed


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("v.csv", [], "has the suffix '.csv'; expected .npy (a matrix) or .jsonl (texts and vecto"),
        ("v.npy", ["--json"], "v.npy; expected a .jsonl file"),
        ("v.npy", [], "1 of 3 inputs have no vector, so "),
        ("docs.jsonl", [], "docs.jsonl would replace the file that contains the inputs; expected"),
    ],
)
def test_what_is_not_written(folder, tmp_path, capsys, output, options, message):
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n{"text": ""}\n{"text": "the"}\n')
    arguments = ["-m", str(folder), "-f", str(tmp_path / "docs.jsonl")]
    assert main(["embed", *arguments, "-o", str(tmp_path / output), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "v.npy").exists()


def test_embedding_is_neither_trained_nor_scored(folder, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("task: embed\noutput: x\n")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "has task: embed, which cannot be trained; expected another" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--data", "trec"]) == 2
    assert (
        "qkv embed has no scores; expected a model of another task, or --labels"
        in capsys.readouterr().err
    )

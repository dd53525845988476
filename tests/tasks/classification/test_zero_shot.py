"""`qkv classify --labels`: classes without training, by embeddings and by likelihood."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from tests.checkpoints.folders import write
from tests.tasks.byte_level import write_byte_level
from tests.tasks.small import write_base, write_classifier

import qkv
from qkv.cli import main
from qkv.data.labels import Labels, PairExample, TextExample
from qkv.errors import ConfigError, DataError
from qkv.models.modes import evaluating
from qkv.tasks.embedding import Embedder
from qkv.tasks.likelihood import continuation_log_likelihoods, negative_log_likelihoods
from qkv.tasks.pretrained import load
from qkv.tasks.zero_shot import (
    SCALE,
    TEMPLATES,
    EmbeddingClassifier,
    LikelihoodClassifier,
    adapted,
    read_descriptions,
    zero_shot_classifier,
)
from qkv.zoo.catalog import ZOO

OPINIONS = "good=fine|superb, bad=dull, thing=a film"
TEXTS = ["the film was fine", "soup", "a book and a tool and a plot .", "a rude meal"]


@pytest.fixture
def encoder(tmp_path):
    return write_base(tmp_path / "encoder")


@pytest.fixture
def writer(tmp_path):
    return write_byte_level(tmp_path / "writer", "gpt2", "GPT2LMHeadModel")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (
            "billing, delivery ,praise",
            {"billing": ["billing"], "delivery": ["delivery"], "praise": ["praise"]},
        ),
        (
            "NUM=a number| a date,LOC = a  place",
            {"NUM": ["a number", "a date"], "LOC": ["a place"]},
        ),
        (
            ["late_delivery", "Sci/Tech"],
            {"late_delivery": ["late delivery"], "Sci/Tech": ["Sci/Tech"]},
        ),
        ({"a": "x, y", "b": ["u", "v=w"]}, {"a": ["x, y"], "b": ["u", "v=w"]}),
    ],
)
def test_labels_have_names_and_words(labels, found):
    assert {name: list(words) for name, words in read_descriptions(labels).items()} == found


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("billing", "one label, 'billing'; expected two or more, separated by commas, such as"),
        ("", "the labels '' have an empty name; expected words, such as"),
        ("a,,b", "the labels 'a', '', 'b' have an empty name; expected words"),
        ("a,b=", "the labels 'a', 'b' have an empty description; expected words"),
        ("a,b=x||y", "the labels 'a', 'b' have an empty description; expected words"),
        ([], "one label, ; expected two or more"),
        ({"a": [], "b": "x"}, "the labels 'a', 'b' have an empty description; expected words"),
        ("a, b, a", "the label 'a' occurs twice; expected each once"),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_descriptions(labels)


def test_logits_are_cosines_with_what_distinguishes_the_labels(encoder):
    loaded = load(encoder, dtype=torch.float64)
    classifier = zero_shot_classifier(loaded, OPINIONS)
    embed = Embedder.of(loaded)
    means = []
    for words in (["fine", "superb"], ["dull"], ["a film"]):
        rows = embed([template.format(word) for word in words for template in TEMPLATES])
        means.append(rows.mean(0) / np.linalg.norm(rows.mean(0)))
    apart = np.stack(means) - np.mean(means, axis=0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    expected = SCALE * embed(TEXTS) @ apart.T
    logits, notes = classifier.logits(TEXTS, progress=False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)
    assert notes == [""] * 4
    for text, prediction in zip(TEXTS, classifier(TEXTS), strict=True):
        alone = classifier(text)
        assert (alone.text, alone.label) == (text, prediction.label)
        assert alone.probability == max(alone.probabilities.values())
        assert math.isclose(sum(alone.probabilities.values()), 1)
        np.testing.assert_allclose(
            [*alone.probabilities.values()], [*prediction.probabilities.values()], atol=1e-12
        )


def groups(*counts, seed=0):
    """Texts in tight groups, each 40 degrees from its label, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.eye(3, 7, dtype=torch.float64)
    labels = torch.nn.functional.normalize(labels - labels.mean(0), dim=-1)
    means = labels + 0.9 * torch.eye(7, dtype=torch.float64)[3:6]
    rows = [
        mean + 0.02 * torch.randn(n, 7, generator=generator, dtype=torch.float64)
        for mean, n in zip(means, counts, strict=True)
    ]
    return labels, torch.nn.functional.normalize(torch.cat(rows), dim=-1)


def test_classes_move_towards_their_texts_if_there_are_enough_of_each():
    labels, texts = groups(29, 31, 37)
    moved = adapted(labels, texts)
    centers = torch.stack([part.mean(0) for part in texts.split([29, 31, 37])])
    near = torch.cosine_similarity(moved, centers)
    assert (near > torch.cosine_similarity(labels, centers) + 0.05).all()
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    for counts in ((29, 31, 24), (99, 101, 31), (97, 0, 0)):
        labels, texts = groups(*counts)
        assert adapted(labels, texts) is labels


def test_many_texts_of_all_classes_count_unless_independent(monkeypatch):
    sentences = [f"{n} {word}" for n in range(30) for word in ("dogs", "francs", "suns")]
    labels = {"animals": "animals", "money": "money", "weather": "weather"}
    together = qkv.task("classify", labels=labels)
    apart = qkv.task("classify", labels=labels, independent=True)
    assert isinstance(together, EmbeddingClassifier)
    assert together(sentences) != apart(sentences)
    alone = apart(sentences[:7])
    assert [one.label for one in alone] == [one.label for one in together(sentences[:7])]
    assert [one.label for one in alone] == [*(["animals", "money", "weather"] * 2), "animals"]


def test_useful_answers():
    classify = qkv.task("classify", labels="billing, delivery, praise")
    texts = ["Where is my parcel?", "I was charged twice.", "You deserve the highest praise!"]
    assert [one.label for one in classify(texts)] == ["delivery", "billing", "praise"]


def test_likelihood_of_continuations_is_that_of_the_whole_text(writer):
    loaded = load(writer, dtype=torch.float64)
    encode = loaded.tokenizer.encode
    start, rows = encode("Labels:"), [encode(text) for text in ("a", " some text", " more of it")]
    ends = [encode(text) for text in (" x", " long one", "y z")]

    def whole(texts):
        options = {"context": 64, "stride": 32}
        losses = negative_log_likelihoods(loaded.model, texts, **options)
        return torch.tensor(losses, dtype=torch.float64)

    with evaluating(loaded.model):
        found = continuation_log_likelihoods(loaded.model, rows, ends, start=start)
        before = whole([[*start, *row] for row in rows])
        for k, end in enumerate(ends):
            expected = before - whole([[*start, *row, *end] for row in rows])
            torch.testing.assert_close(found[:, k], expected, rtol=1e-10, atol=1e-10)


def test_a_language_model_classifies_by_likelihood(writer):
    loaded = load(writer, dtype=torch.float64)
    classifier = qkv.task("classify", loaded, labels="a, bc")
    assert isinstance(classifier, LikelihoodClassifier)
    texts = ["ab c", "c", "a longer text"]
    together = classifier(texts)
    for text, one in zip(texts, together, strict=True):
        alone = classifier(text)
        np.testing.assert_allclose(
            [*alone.probabilities.values()], [*one.probabilities.values()], atol=1e-10
        )
    cut = qkv.task("classify", loaded, labels="a, bc", max_length=3)
    assert "tokens, of which the model read the first 3" in cut("a longer text").note
    with pytest.raises(ConfigError, match="the labels leave no room for a text in the 64 tokens"):
        qkv.task("classify", loaded, labels=["word " * 30, "b"])("x")


def test_scores_need_every_class_of_the_data(encoder):
    classifier = qkv.task("classify", encoder, labels=OPINIONS)
    predicted = classifier(TEXTS)
    right = [TextExample(one.text, one.label) for one in predicted]
    assert classifier.evaluate(right).accuracy == 1.0
    with pytest.raises(DataError, match="text 'soup' has the class 'food', but --labels has only"):
        classifier.evaluate([TextExample("soup", "food")])
    with pytest.raises(DataError, match="the data has pairs of texts; expected single texts for"):
        classifier.evaluate([PairExample("soup", "good", "film")])


def test_what_cannot_be_classified(encoder, tmp_path):
    classifier = qkv.task("classify", encoder, labels=OPINIONS)
    with pytest.raises(DataError, match="text 1 has no tokens: ''"):
        classifier("")
    with pytest.raises(DataError, match="expected no second texts"):
        classifier("soup", "film")
    trained = write_classifier(tmp_path / "made", Labels(["bad", "good"]), encoder)
    message = "the labels are for a model without classes, but this SequenceClassifier has its own"
    with pytest.raises(ConfigError, match=message):
        qkv.task("classify", trained, labels=OPINIONS)
    write(tmp_path / "vit", "vit", architecture="ViTModel")
    with pytest.raises(ConfigError, match="model without classes: an encoder without a head, such"):
        qkv.task("classify", tmp_path / "vit", labels=OPINIONS)


def test_empty_texts_for_a_language_model(writer):
    with pytest.raises(DataError, match="text 2 is empty: ' '; expected a text"):
        qkv.task("classify", writer, labels="a, bc")(["x", " "])


def test_the_command(encoder, tmp_path, capsys):
    options = ["-m", str(encoder), "--labels", OPINIONS]
    assert main(["classify", *options, *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    predictions = qkv.task("classify", encoder, labels=OPINIONS)(TEXTS)
    assert [line.split("\t")[0] for line in lines] == [one.label for one in predictions]
    table = tmp_path / "test.csv"
    table.write_text("text,label\n" + "".join(f"{x.text},{x.label}\n" for x in predictions))
    arguments = ["evaluate", str(encoder), "--labels", OPINIONS, "--data", str(table)]
    assert main([*arguments, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["accuracy"], scores["count"]) == (1.0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "--labels", "billing", "x"], "one label, 'billing'; expected two or more"),
        (["classify", "--labels", "a,b", "--second", "y", "x"], "--labels with --second; expected"),
        (["classify", "--independent", "x"], "--independent without --labels; expected both, or"),
        (["classify", "-m", "sentiment", "--labels", "a,b", "x"], "sentiment: the labels are for"),
        (
            ["evaluate", "tagger", "--task", "tag", "--labels", "a,b", "--data", "town_news"],
            "--labels with --task tag; expected --task classify",
        ),
    ],
)
def test_commands_that_are_refused(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_package_of_the_default_model_may_be_missing(monkeypatch, capsys):
    missing = ZOO["all-MiniLM-L6-v2"].__class__(
        package="no_such", path="x", about="", install="pip x"
    )
    monkeypatch.setitem(ZOO, "all-MiniLM-L6-v2", missing)
    for command in (
        ["classify", "--labels", "a,b", "x"],
        ["embed", "x"],
        ["search", "--file", __file__, "x"],
    ):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "the package no_such is not installed; install it: pip x" in err


def test_a_prefix_of_prompts_does_not_change_the_classes(writer):
    loaded = load(writer, dtype=torch.float32)
    framed = dataclasses.replace(
        loaded,
        config=loaded.config | {"task_specific_params": {"text-generation": {"prefix": "Go on."}}},
    )
    plain, other = (zero_shot_classifier(one, "billing, praise") for one in (loaded, framed))
    assert plain("a late parcel").probabilities == other("a late parcel").probabilities

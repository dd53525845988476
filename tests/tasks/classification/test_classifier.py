"""A classifier as a library: a new head on an encoder, probabilities, scores."""

import json
from dataclasses import replace

import pytest
import torch
from tests.checkpoints.folders import contents, write
from tests.helpers import assert_as_exact, unchecked
from tests.tasks.small import FILES, SPECIAL, sentences, write_base, write_classifier

from qkv.data.labels import Labels, PairExample, TextExample
from qkv.errors import ConfigError, DataError, LengthError
from qkv.evaluation.classification import classification_report
from qkv.evaluation.temperature import RANGE
from qkv.models.heads import SequenceClassifier
from qkv.tasks.classification import ClassificationRecipe, TextClassifier
from qkv.tasks.pretrained import load, save

LABELS = Labels(["bad", "good", "mixed"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("made") / "model", LABELS, base)


def in_float64(folder):
    classifier = TextClassifier.load(folder)
    classifier.model.double()
    return classifier


def texts(n=17):
    return [text for text, _ in sentences(n)]


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_a_new_head_leaves_the_encoder_as_it_is(tmp_path, model_type):
    base = write_base(tmp_path, model_type)
    encoder = dict(load(base).model.named_parameters())
    torch.manual_seed(3)
    one = TextClassifier.fresh(base, LABELS, max_length=13)
    assert isinstance(one.model, SequenceClassifier)
    assert one.labels.names == LABELS.names
    for name, parameter in one.model.encoder.named_parameters():
        assert torch.equal(parameter, encoder[name]), name
    torch.manual_seed(4)
    other = TextClassifier.fresh(base, LABELS, max_length=13)
    weights = [x.model.classifier.output.weight for x in (one, other)]
    assert weights[0].shape == (3, 22)
    assert not torch.equal(*weights)


def test_from_random_weights_nothing_of_the_encoder_is_left(base):
    torch.manual_seed(3)
    encoder = dict(load(base).model.named_parameters())
    fresh = TextClassifier.fresh(base, LABELS, max_length=13, pretrained=False).model.encoder
    matrices = {name: p for name, p in fresh.named_parameters() if p.ndim > 1}
    assert len(matrices) == 3 + 6 * 3 + 1
    for name, parameter in matrices.items():
        assert not torch.isclose(parameter, encoder[name]).any(), name
    assert 0.01 < matrices["stack.blocks.0.self_attention.query.weight"].std() < 0.03


def test_an_encoder_without_a_pooler_gets_one(tmp_path):
    base = write_base(tmp_path, architecture="BertForMaskedLM")
    classifier = TextClassifier.fresh(base, LABELS, max_length=13)
    embedding = load(base).model.encoder.embedding.weight
    assert torch.equal(classifier.model.encoder.embedding.weight, embedding)
    assert classifier.model.encoder.pooler.weight.shape == (22, 22)


def test_training_is_in_float32_whatever_the_file_has(tmp_path):
    base = write_base(tmp_path, dtype=torch.float16)
    assert {p.dtype for p in load(base).model.parameters()} == {torch.float16}
    classifier = TextClassifier.fresh(base, LABELS, max_length=13)
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}


def test_what_the_base_says_of_itself_alone_is_left_out(tmp_path):
    files = FILES | {"modules.json": b"[]", "results.json": b"{}", "1_Pooling/config.json": b"{}"}
    base = write_base(tmp_path / "base", files=files)
    raw = json.loads((base / "config.json").read_text())
    raw |= {"problem_type": "multi_label_classification", "num_labels": 7}
    (base / "config.json").write_text(json.dumps(raw))
    save(TextClassifier.fresh(base, LABELS, max_length=13).loaded, tmp_path / "made")
    made = contents(tmp_path / "made")
    assert set(made) == {*FILES, "config.json", "model.safetensors"}
    assert made["vocab.txt"] == FILES["vocab.txt"]
    config = json.loads(made["config.json"])
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "mixed"}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert not {"problem_type", "num_labels"} & config.keys()
    assert TextClassifier.load(tmp_path / "made").labels.names == LABELS.names


def test_the_length_of_training_is_that_of_later_use(base, folder, tmp_path):
    assert TextClassifier.load(folder).max_length == 13
    assert TextClassifier.load(folder, max_length=29).max_length == 29
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    known = {"tokenizer_class": "BertTokenizer", "model_max_length": 13, "text_pairs": False}
    assert settings == known
    # What says nothing, or no limit, leaves the model's positions: 41.
    for said in ({}, {"model_max_length": int(1e30)}, {"model_max_length": 512}):
        loaded = TextClassifier.fresh(base, LABELS, max_length=41).loaded
        save(loaded, tmp_path)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
        assert TextClassifier.load(tmp_path).max_length == 41


def test_more_tokens_than_the_model_has_positions(base, folder):
    message = "max_length = 42, but this SequenceClassifier has learned positions for 41 tokens"
    with pytest.raises(ConfigError, match=message):
        TextClassifier.fresh(base, LABELS, max_length=42)
    with pytest.raises(ConfigError, match=message):
        TextClassifier.load(folder, max_length=42)
    with pytest.raises(LengthError, match="max_length = 0 leaves no room for text"):
        TextClassifier.load(folder, max_length=0)("the film")  # 0 is no default
    long = " ".join(texts())
    assert TextClassifier.load(folder, max_length=41)([long])[0].text == long


def test_a_text_that_is_too_long_counts_by_its_beginning(folder):
    classifier = in_float64(folder)
    start = "the film was fine and the meal was not rude"  # 10 tokens, room for one more
    rows = classifier.probabilities([f"{start} .", f"{start} . broken", f"{start} !"])
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-12)
    assert (rows[0] - rows[2]).abs().max() > 1e-4


def test_one_text_equals_many_and_the_order_is_kept(folder):
    classifier = in_float64(folder)
    many = classifier.probabilities(texts())
    assert many.dtype == torch.float64
    assert many.shape == (17, 3)
    torch.testing.assert_close(many.sum(1), torch.ones(17).double(), rtol=0, atol=1e-12)
    assert len({round(p, 9) for p in many[:, 0].tolist()}) == 17
    for i, text in enumerate(texts()):
        alone = classifier.probabilities([text])
        torch.testing.assert_close(alone[0], many[i], rtol=0, atol=1e-12)
    few = classifier.probabilities(texts()[::-1])
    torch.testing.assert_close(few.flip(0), many, rtol=0, atol=1e-12)


def test_in_float32_one_text_nearly_equals_many(folder):
    classifier = TextClassifier.load(folder)
    alone = torch.cat([classifier.probabilities([text]) for text in texts()])
    many, exact = classifier.probabilities(texts()), in_float64(folder).probabilities(texts())
    assert_as_exact(many, alone, exact)


def test_what_is_said_is_the_likeliest(folder):
    classifier = in_float64(folder)
    said, rows = classifier(texts()), classifier.probabilities(texts())
    assert [one.text for one in said] == texts()
    assert len({one.label for one in said}) > 1
    for one, row in zip(said, rows, strict=True):
        assert one.probabilities == dict(zip(LABELS.names, row.tolist(), strict=True))
        assert one.label == LABELS.names[int(row.argmax())]
        assert one.probability == row.max()


def test_asking_leaves_the_model_as_it_was(folder):
    classifier = TextClassifier.load(folder)
    classifier.model.train()
    first = classifier.probabilities(texts())
    assert classifier.model.training
    assert torch.equal(first, classifier.probabilities(texts()))  # nothing was dropped
    assert all(p.grad is None and not p.is_inference() for p in classifier.model.parameters())


def test_scores_are_those_of_the_report(folder):
    classifier = in_float64(folder)
    examples = [TextExample(*pair) for pair in sentences(17)]
    truth = [["bad", "good"].index(one.label) for one in examples]
    rows = classifier.probabilities(texts())
    expected = classification_report(truth, rows, LABELS.names)
    assert classifier.evaluate(examples) == expected
    right = sum(int(row.argmax()) == n for row, n in zip(rows, truth, strict=True))
    assert expected.accuracy == right / 17


SECONDS = [f"a {thing} !" for thing in ("film", "soup", "book", "plot", "tool", "meal", "place")]


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_pairs_are_read_as_the_family_reads_them(tmp_path, model_type):
    base = write_base(tmp_path / "base", model_type)
    torch.manual_seed(5)
    classifier = TextClassifier.fresh(base, LABELS, max_length=17, pairs=True)
    classifier.model.double()
    firsts, tokenizer = texts(7), classifier.tokenizer
    rows = classifier.probabilities(firsts, SECONDS)
    for row, *pair in zip(rows, firsts, SECONDS, strict=True):
        wrapped = tokenizer.add_special_tokens(*(tokenizer.encode(text) for text in pair))
        segments = {"segments": torch.tensor([wrapped.segments])} if model_type == "bert" else {}
        with torch.inference_mode():
            alone = classifier.model.eval()(torch.tensor([wrapped.ids]), **segments).softmax(-1)
        torch.testing.assert_close(row, alone[0], rtol=0, atol=1e-12)
    swapped = classifier.probabilities(SECONDS, firsts)
    assert (rows - swapped).abs().max() > 1e-4  # which text comes first is seen
    found = classifier(firsts, SECONDS)
    assert [(one.text, one.second) for one in found] == list(zip(firsts, SECONDS, strict=True))
    assert [one.probabilities for one in found] == [
        dict(zip(LABELS.names, row, strict=True)) for row in rows.tolist()
    ]
    one = classifier(firsts[0], SECONDS[0])
    assert (one.label, one.second) == (found[0].label, found[0].second)
    examples = [
        PairExample(text, "good", second) for text, second in zip(firsts, SECONDS, strict=True)
    ]
    expected = classification_report([1] * 7, rows, LABELS.names)
    assert classifier.evaluate(examples) == expected


def test_a_model_of_pairs_says_so(base, folder, tmp_path):
    pairs = TextClassifier.fresh(base, LABELS, max_length=17, pairs=True)
    save(pairs.loaded, tmp_path / "pairs")
    loaded = TextClassifier.load(tmp_path / "pairs")
    assert loaded("the film", "a soup").second == "a soup"
    message = "the inputs are single texts; this model classifies pairs of texts"
    with pytest.raises(DataError, match=message):
        loaded("the film")
    with pytest.raises(
        DataError, match="the inputs are pairs of texts; this model classifies single"
    ):
        TextClassifier.load(folder)("the film", "a soup")
    # A model of another library does not say, and reads both.
    path = tmp_path / "pairs" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    assert config.pop("text_pairs") is True
    path.write_text(json.dumps(config))
    unknown = TextClassifier.load(tmp_path / "pairs")
    assert unknown("the film", "a soup").probabilities == loaded("the film", "a soup").probabilities
    assert unknown("the film").text == "the film"


def test_texts_that_cannot_be_classified_or_scored(folder):
    classifier = TextClassifier.load(folder)
    with pytest.raises(DataError, match="no examples to batch"):
        classifier([])
    with pytest.raises(DataError, match=r"text 2 has no tokens: ' ' \(is it empty\?\)"):
        classifier(["the film", " "])
    examples = [TextExample("the film", "good"), TextExample("the meal", "so-so")]
    with pytest.raises(
        DataError, match="text 'the meal': the label 'so-so' was never seen in training"
    ):
        classifier.evaluate(examples)


def test_names_of_classes_where_the_config_has_none(folder, tmp_path):
    save(load(folder), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    for name in ("id2label", "label2id"):
        del raw[name]
    (tmp_path / "config.json").write_text(json.dumps(raw | {"num_labels": 3}))
    classifier = TextClassifier.load(tmp_path)
    assert classifier.labels.names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert classifier(["the film"])[0].label.startswith("LABEL_")


def test_numbers_of_classes_are_no_texts(folder, tmp_path):
    save(load(folder), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    names = [f"class {i}" for i in range(3)]
    raw["id2label"] = {str(i): names[i] for i in (2, 0, 1)}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert TextClassifier.load(tmp_path).labels.names == tuple(names)


def test_another_kind_of_problem_is_refused(folder, tmp_path):
    save(load(folder), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"problem_type": "regression"}))
    message = r"the model was trained for problem_type = 'regression'; expected one of single_label"
    with pytest.raises(ConfigError, match=message):
        TextClassifier.load(tmp_path)


def test_a_model_without_a_head_or_a_tokenizer_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"is a Bert with a tokenizer; expected a model that was"):
        TextClassifier.load(base)
    write(tmp_path, architecture="BertForSequenceClassification")
    with pytest.raises(ConfigError, match="is a SequenceClassifier with no tokenizer; expected"):
        TextClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        (
            "marian",
            "is of the family marian, which has no SequenceClassifier here; qkv models --family ",
        ),
        ("vit", "has no tokenizer; expected an encoder of texts"),
    ],
)
def test_a_base_that_cannot_become_a_classifier_of_texts(tmp_path, model_type, message):
    write(tmp_path, model_type)
    with unchecked(), pytest.raises(ConfigError, match=message):
        TextClassifier.fresh(tmp_path, LABELS, max_length=13)


def test_special_tokens_stand_around_each_text(folder):
    tokenizer = TextClassifier.load(folder).tokenizer
    ids = tokenizer.add_special_tokens(tokenizer.encode("the films was")).ids
    assert tokenizer.tokens(ids) == ["[CLS]", "the", "film", "##s", "was", "[SEP]"]
    assert tokenizer.pad == SPECIAL.index("[PAD]")


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_calibration_scales_the_logits_and_changes_no_prediction(tmp_path, model_type):
    base = write_base(tmp_path / "base", model_type)
    folder = write_classifier(tmp_path / "made", LABELS, base)
    one, other = in_float64(folder), in_float64(folder)
    examples = [TextExample(text, label) for text, label in sentences(31)]
    temperature = other.calibrate(examples)
    before, after = (c.probabilities(texts()) for c in (one, other))
    expected = (before.log() / temperature).softmax(-1)
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(before.argmax(-1), after.argmax(-1))
    assert other.evaluate(examples).loss <= one.evaluate(examples).loss
    if RANGE[0] * 1.01 < temperature < RANGE[1] / 1.01:
        assert other.calibrate(examples) == pytest.approx(1, rel=1e-3)


def test_several_classes_have_no_temperature(tmp_path):
    with pytest.raises(ConfigError, match="calibrate = true with several = true; expected one of"):
        ClassificationRecipe(output=tmp_path, several=True, calibrate=True).check()


@pytest.mark.parametrize("wrong", [0, "13", 2.5, True])
def test_the_longest_input_of_an_adapter_is_in_its_config(wrong, base, tmp_path):
    """Its tokenizer is that of the base, whose limit may be much larger."""
    whole = write_classifier(tmp_path / "whole", LABELS, base)
    path = whole / "config.json"
    config = json.loads(path.read_text())

    def record(n):
        config["task_specific_params"] = {"qkv": {"task": "classify", "max_length": n}}
        path.write_text(json.dumps(config))
        return TextClassifier.load(whole)

    assert record(7).max_length == 7
    with pytest.raises(ConfigError, match=r"max_length = .* expected a whole number of at least 1"):
        record(wrong)


def test_a_prefix_is_read_before_each_text_and_saved(base, tmp_path):
    classifier = TextClassifier.fresh(base, LABELS, max_length=13, prefix="the film ")
    plain = replace(classifier, prefix="")
    own = classifier.probabilities(["was fine"])
    torch.testing.assert_close(own, plain.probabilities(["the film was fine"]), rtol=0, atol=0)
    assert not torch.equal(own, plain.probabilities(["was fine"]))
    save(classifier.loaded, tmp_path)
    again = TextClassifier.load(tmp_path)
    assert again.prefix == "the film "
    assert torch.equal(again.probabilities(["was fine"]), own)
    with pytest.raises(DataError, match="text 1 has no tokens"):
        again([""])
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"the film "', "3"))
    with pytest.raises(ConfigError, match="prefix = 3; expected a string"):
        TextClassifier.load(tmp_path)


def test_a_prefix_that_leaves_no_room_and_an_adapter_asked_about_pairs(base):
    with pytest.raises(ConfigError, match="leaves no room for a text of max_length = 13 tokens"):
        TextClassifier.fresh(base, LABELS, max_length=13, prefix="the film " * 6)
    adapter = TextClassifier.load("sentiment-small")  # it has no tokenizer of its own
    with pytest.raises(DataError, match="are pairs of texts; this model classifies single texts"):
        adapter(["fine"], ["bad"])

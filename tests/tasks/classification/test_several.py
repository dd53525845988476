"""Texts with several classes each: training, probabilities, scores, and published models."""

import json

import pytest
import torch
import transformers
from tests.helpers import unchecked
from tests.tasks.small import results, sentences, write_base, write_classifier, write_table
from torch.nn import functional as F

from qkv.cli import main
from qkv.data.classification import ClassificationBatch
from qkv.data.labels import Labels, TextExample
from qkv.errors import DataError
from qkv.models.heads import SequenceClassifier
from qkv.tasks.classification import TASK, ClassificationRecipe, TextClassifier
from qkv.tasks.pretrained import load, save
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import train
from qkv.training.classification import classification_loss
from qkv.training.settings import Training

LABELS = ["bad", "good", "strong"]
STRONG = ("superb", "lovely", "awful", "broken")


def rows(n):
    """Texts that are good, strong, both, or neither."""
    found = []
    for text, opinion in sentences(n):
        strong = any(word in text for word in STRONG)
        names = ["strong"] * strong + [opinion] * (opinion == "good")
        found.append((text, " | ".join(names) or "|"))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


def recipe(folder, base, table, **options):
    training = {"epochs": 60.0, "batch_size": 7, "learning_rate": 3e-3, "warmup": 0.0}
    fields = {"data": DataConfig(train=(str(table),), validation_fraction=0.25)}
    return ClassificationRecipe(
        output=folder / "made",
        base=str(base),
        training=Training(schedule="constant", **training),
        max_length=13,
        several=True,
        device="cpu",
        **fields | options,
    )


def published(folder, base):
    """A model whose config.json says that a text may have several classes."""
    write_classifier(folder, Labels(LABELS), base)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"problem_type": "multi_label_classification"}
    path.write_text(json.dumps(config))
    classifier = TextClassifier.load(folder)
    with torch.no_grad():  # no class is always the likelier choice
        chances = classifier.probabilities([text for text, _ in sentences(40)])
        classifier.model.classifier.output.bias -= chances.logit().mean(0).float()
    save(classifier.loaded, folder)
    return folder


def test_a_recipe_trains_and_its_model_is_scored(base, tmp_path, capsys):
    table = write_table(tmp_path / "my.csv", rows(60))
    with unchecked():
        train(TASK, recipe(tmp_path, base, table))
    out = capsys.readouterr().out
    assert "2 classes: good (" in out
    assert "micro-F1 " in out
    made = tmp_path / "made"
    config = json.loads((made / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "good", "1": "strong"}
    found = results(made)["validation"]
    assert found["count"] == 15
    assert found["micro_f1"] > 0.9
    assert found["accuracy"] > found["majority"] + 0.2

    answers = {
        "the film was superb": "good|strong",
        "the film was awful": "strong",
        "the film was clever": "good",
        "the film was dull": "",
    }
    assert main(["classify", "-m", str(made), *answers]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[2]) for line in lines] == [(v, k) for k, v in answers.items()]
    assert main(["evaluate", str(made), "--data", str(table), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["count"] == 60
    assert scores["micro_f1"] > 0.9
    assert main(["evaluate", str(made), "--data", str(table)]) == 0
    assert "all labels right" in capsys.readouterr().out


def test_labels_are_one_class_each_without_the_option(base, tmp_path):
    table = write_table(tmp_path / "my.csv", rows(60))
    one = recipe(tmp_path, base, table)
    assert one.build(one.read(TASK)).labels.names == ("good", "strong")
    single = ClassificationRecipe(output=one.output, base=one.base, data=one.data, max_length=13)
    names = single.build(single.read(TASK)).labels.names
    assert names == ("good", "strong", "strong | good", "|")


def test_a_rare_label_may_be_held_out_but_not_be_new_in_the_test(base, tmp_path):
    all_rows = rows(60)
    for i in (0, 1, 2, 3):  # wherever it lies, the model has an output for it
        rare = [(text, f"rare{j}|good") if j % 4 == i else (text, label)
                for j, (text, label) in enumerate(all_rows)]  # fmt: skip
        one = recipe(tmp_path, base, write_table(tmp_path / "my.csv", rare))
        assert len(one.build(one.read(TASK)).labels) == 2 + 15
    other = write_table(tmp_path / "other.csv", [("a film", "good|new")])
    data = DataConfig(train=(str(write_table(tmp_path / "a.csv", all_rows)),), test=str(other))
    one = recipe(tmp_path, base, "-", data=data)
    with pytest.raises(DataError, match=r"data\.test, 'a film': the label 'new' was never seen in"):
        one.build(one.read(TASK))


def test_probabilities_are_those_of_transformers(base, tmp_path):
    folder = published(tmp_path / "model", base)
    classifier = TextClassifier.load(folder)
    classifier.model.double()
    texts = [text for text, _ in sentences(11)]
    found = classifier.probabilities(texts)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float64
    ).eval()
    assert theirs.config.problem_type == "multi_label_classification"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        expected = theirs(**batch).logits.sigmoid()
    assert (found - expected).abs().max() <= 1e-12
    assert (found.sum(1) - 1).abs().min() > 1e-3  # independent of each other

    for one, row in zip(classifier(texts), expected.tolist(), strict=True):
        names = [name for name, p in zip(LABELS, row, strict=True) if p >= 0.5]
        assert one.label == "|".join(names)
        chances = [p if name in names else 1 - p for name, p in zip(LABELS, row, strict=True)]
        assert one.probability == pytest.approx(chances[0] * chances[1] * chances[2], abs=1e-12)
        assert one.probabilities == pytest.approx(dict(zip(LABELS, row, strict=True)), abs=1e-12)
    assert len({one.label for one in classifier(texts)}) > 1


def test_the_loss_is_that_of_transformers(base, tmp_path):
    folder = published(tmp_path / "model", base)
    classifier = TextClassifier.load(folder)
    model = classifier.model.double().eval()
    ids = classifier.encode(["the film was dull", "a soup and a meal"]).ids
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    tokens = torch.tensor([row + [0] * (7 - len(row)) for row in ids])
    batch = ClassificationBatch(
        tokens=tokens, token_mask=tokens != 0, classes=targets.float(), rows=(0, 1)
    )
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float64
    ).eval()
    inputs = {"input_ids": tokens, "attention_mask": (tokens != 0).long()}
    expected = theirs(**inputs, labels=targets).loss  # the mean over texts and classes
    loss = classification_loss(model, batch)
    assert (loss / 2 - expected).abs() <= 1e-12
    # Smoothed, each class is a choice of two, between which the weight is spread.
    logits = model(tokens, token_mask=batch.token_mask)
    soft = 0.8 * targets + 0.1
    written_out = F.binary_cross_entropy_with_logits(logits, soft) * 2
    assert (classification_loss(model, batch, smoothing=0.2) - written_out).abs() <= 1e-7


def test_targets_of_other_classes_are_refused(base):
    torch.manual_seed(1)
    model = SequenceClassifier(load(base).model, 5)
    tokens = torch.tensor([[2, 5, 3]])
    batch = ClassificationBatch(
        tokens=tokens, token_mask=tokens > 0, classes=torch.ones(1, 3), rows=(0,)
    )
    with pytest.raises(DataError, match="targets of 3 classes, but the model has 5; was its head"):
        classification_loss(model, batch)


def test_scores_are_those_of_the_rows(base, tmp_path):
    classifier = TextClassifier.load(published(tmp_path / "model", base))
    examples = [TextExample(*row) for row in rows(17)]
    scores = classifier.evaluate(examples)
    chosen = [one.label.split("|") for one in classifier([one.text for one in examples])]
    truth = [[part.strip() for part in one.label.split("|")] for one in examples]
    right = sum(set(a) - {""} == set(b) - {""} for a, b in zip(chosen, truth, strict=True))
    assert scores.accuracy == right / 17
    assert [one.label for one in scores.classes] == LABELS
    assert scores.classes[0].support == 0
    with pytest.raises(DataError, match="text 'a film': the label 'new' was never seen in train"):
        classifier.evaluate([TextExample("a film", "good|new")])

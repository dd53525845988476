"""A classifier that `qkv train` made, in transformers and PEFT: the same labels and numbers."""

import json

import peft
import pytest
import torch
import transformers
from tests.helpers import assert_as_exact, unchecked
from tests.parity.reference import in_float64
from tests.tasks.small import sentences, write_base, write_recipe, write_table

from qkv.cli import main
from qkv.tasks.classification import TextClassifier

# transformers names its own function so; no call of ours.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TEXTS = [text for text, _ in sentences(23)] + [
    "the film was fine and the meal was not rude . broken broken broken",  # is cut
    "Unknown wörds WAS the films",
]


def train(folder, base, *options):
    """The commands of a user, from a csv to a folder."""
    names = {"good": "very good", "bad": "bäd"}
    rows = [(text, names[label]) for text, label in sentences(32)]
    data = write_table(folder / "my.csv", rows)
    recipe, made = write_recipe(folder, base=base, data=data)
    with unchecked():
        assert main(["train", recipe, "--training.learning_rate", "0.01", *options]) == 0
    return made


def theirs(model, folder):
    """What transformers says of the texts, cut to what the tokenizer's files say.

    Returns:
        probabilities in float32 and in float64, and the batch.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        both = [one(**batch).logits.softmax(-1) for one in (model.eval(), in_float64(model))]
    return *both, batch


@pytest.mark.parametrize(
    ("model_type", "way"),
    [("bert", "all"), ("bert", "head"), ("bert", "scratch"), ("distilbert", "all")],
)
def test_the_folder_loads_and_says_the_same(tmp_path, model_type, way):
    base = write_base(tmp_path / "base", model_type)
    made = train(tmp_path, base, "--finetuning.train", way)
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        made, output_loading_info=True
    )
    assert not any(report.values())
    classifier = TextClassifier.load(made)
    *expected, batch = theirs(model, made)
    assert batch["input_ids"].shape[1] == 13  # data.max_length
    ours = classifier.probabilities(TEXTS)
    assert_as_exact(ours, *expected)
    assert ours.std(0).min() > 1e-4  # not all the same
    assert model.config.id2label == {0: "bäd", 1: "very good"}
    assert model.config.label2id == {"bäd": 0, "very good": 1}
    assert classifier.labels.names == ("bäd", "very good")


def test_a_pipeline_of_theirs_says_the_same(tmp_path):
    made = train(tmp_path, write_base(tmp_path / "base"))
    pipeline = transformers.pipeline("text-classification", model=str(made), device="cpu")
    *_, exact, _ = theirs(pipeline.model, made)
    said, ours = pipeline(TEXTS, truncation=True), TextClassifier.load(made)(TEXTS)
    assert [one["label"] for one in said] == [one.label for one in ours]
    scores = [torch.tensor([one["score"] for one in said])]
    scores.append(torch.tensor([one.probability for one in ours]))
    assert_as_exact(scores[1], scores[0], exact.max(-1).values)


def test_merged_lora_equals_the_adapter_in_peft(tmp_path):
    base = write_base(tmp_path / "base")
    options = ["--finetuning.train", "lora", "--finetuning.lora.rank", "3"]
    made = train(tmp_path, base, *options)
    ours = TextClassifier.load(made).probabilities(TEXTS)
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    assert_as_exact(ours, *theirs(merged, made)[:2])
    adapter = tmp_path / "made.training" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (3, base.as_posix())
    labels = {0: "bäd", 1: "very good"}
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(base, id2label=labels)
    adapted = peft.PeftModel.from_pretrained(bare, adapter)
    assert_as_exact(ours, *theirs(adapted, made)[:2])
    with adapted.disable_adapter():
        without, *_ = theirs(adapted, made)
    assert (without - ours).abs().max() > 1e-3


def test_their_export_is_scored_by_our_commands(tmp_path, capsys):
    """The other way round: a classifier that transformers saved."""
    base = write_base(tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    labels = {0: "bad", 1: "good", 2: "mixed"}
    torch.manual_seed(5)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, id2label=labels, label2id={name: i for i, name in labels.items()}
    )
    with torch.no_grad():
        model.classifier.weight *= 20
    for one in (tokenizer, model):
        one.save_pretrained(tmp_path / "theirs")
    *expected, _ = theirs(model, tmp_path / "theirs")
    assert main(["classify", "-m", str(tmp_path / "theirs"), "--json", *TEXTS]) == 0
    said = [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]
    assert [list(one) for one in said] == [list(labels.values())] * len(TEXTS)
    ours = torch.tensor([list(one.values()) for one in said])
    assert_as_exact(ours, *expected)

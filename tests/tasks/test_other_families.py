"""Classifiers and answerers on GPT-2 and BART: what trains on them, and what is refused."""

import pytest
import torch
from tests.tasks.byte_level import write_byte_level
from tests.tasks.small import sentences, write_base

from qkv.data.labels import Labels
from qkv.data.windows import WindowConfig
from qkv.errors import ConfigError
from qkv.tasks.answering import Answerer
from qkv.tasks.classification import TextClassifier
from qkv.tasks.pretrained import save
from qkv.tasks.task import task_of

BASES = [("gpt2", "GPT2LMHeadModel"), ("bart", "BartForConditionalGeneration")]
each = pytest.mark.parametrize(("model_type", "architecture"), BASES)


def changed_by_a_step(model, loss):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@each
def test_a_fresh_classifier_trains_and_comes_back(model_type, architecture, tmp_path):
    write_byte_level(tmp_path / "base", model_type, architecture)
    labels = Labels(("bad", "good"))
    made = TextClassifier.fresh(tmp_path / "base", labels, max_length=40)
    texts = [text for text, _ in sentences(3)]
    encoded = made.encode(texts)
    assert encoded.segments is None
    logits = made.model(torch.tensor([encoded.ids[0]]))
    changed = changed_by_a_step(made.model, logits.square().sum())
    assert {"classifier.output.weight", "encoder.embedding.weight"} <= changed
    save(made.loaded, tmp_path / "made")
    assert task_of(str(tmp_path / "made")) == "classify"
    again = TextClassifier.load(tmp_path / "made")
    assert again.labels.names == labels.names
    assert torch.equal(again.probabilities(texts), made.probabilities(texts))


@each
def test_a_fresh_answerer_trains_and_comes_back(model_type, architecture, tmp_path):
    write_byte_level(tmp_path / "base", model_type, architecture)
    made = Answerer.fresh(tmp_path / "base", WindowConfig(max_length=50, stride=7))
    logits = made.model(torch.arange(3, 20)[None])
    assert "classifier.weight" in changed_by_a_step(made.model, logits.square().sum())
    save(made.loaded, tmp_path / "made")
    assert task_of(str(tmp_path / "made")) == "answer"
    again = Answerer.load(tmp_path / "made")
    asked = ("where is the cat", "the cat is in the garden, which has a wall, and sleeps")
    assert again(*asked) == made(*asked)


@pytest.mark.parametrize("architecture", ["GPT2ForTokenClassification", "GPT2ForQuestionAnswering"])
def test_a_model_with_another_head_is_no_classifier(architecture, tmp_path):
    write_byte_level(tmp_path, "gpt2", architecture)
    with pytest.raises(
        ConfigError, match=r"with a tokenizer; expected a model that was trained to"
    ):
        TextClassifier.load(tmp_path)


def test_a_model_that_compares_choices_is_made_for_no_task(tmp_path):
    write_base(tmp_path, architecture="BertForMultipleChoice")
    with pytest.raises(ConfigError, match="is a MultipleChoice with a tokenizer; expected a model"):
        TextClassifier.load(tmp_path)
    with pytest.raises(ConfigError, match="is a MultipleChoice, which fits none of the tas"):
        task_of(str(tmp_path))

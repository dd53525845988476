"""Which task a model is for, and a task as a function."""

import json
import re
from dataclasses import asdict

import pytest
from tests.checkpoints.folders import write
from tests.tasks.small import write_base, write_classifier

import qkv
from qkv.cli import main
from qkv.data.labels import Labels
from qkv.errors import ConfigError, DataError
from qkv.tasks.pipeline import OURS, PARAMETERS
from qkv.tasks.task import commands, find_task, task, task_of
from qkv.zoo.catalog import ZOO

KINDS = {
    ("bert", "BertModel"): "embed",
    ("bert", "BertForSequenceClassification"): "classify",
    ("bert", "BertForQuestionAnswering"): "answer",
    ("bert", "BertForTokenClassification"): "tag",
    ("vit", "ViTForImageClassification"): "recognize",
    ("deit", "DeiTForImageClassificationWithTeacher"): "recognize",
    ("gpt2", "GPT2LMHeadModel"): "generate",
    ("llama", "LlamaForCausalLM"): "generate",
    ("marian", "MarianMTModel"): "translate",
    ("t5", "T5ForConditionalGeneration"): "translate",
    ("qkv_rnn", "RNNSeq2Seq"): "translate",
    ("qkv_hybrid", "Hybrid"): "generate",
    ("qkv_pointer_generator", "PointerGenerator"): "summarize",
}


@pytest.mark.parametrize(("family", "architecture"), KINDS)
def test_the_config_says_what_a_model_is_for(family, architecture, tmp_path):
    write(tmp_path, family, architecture=architecture)
    assert task_of(str(tmp_path)) == KINDS[family, architecture]


def test_a_model_may_be_for_none(tmp_path):
    write(tmp_path, "bert", architecture="BertForMaskedLM")
    with pytest.raises(ConfigError, match="is a MaskedLM, which fits none of the tasks"):
        task_of(str(tmp_path))


def test_every_task_has_a_default_and_a_command():
    assert set(commands()) == {*KINDS.values(), "search", "chat"}  # as for "embed" and "generate"
    for name in commands():
        found = find_task(name)
        assert found.name == name
        assert found.default in ZOO
        assert found.predict is not None


def test_a_task_is_a_function_of_a_text_or_several(tmp_path):
    labels = Labels(["bad", "good"])
    folder = write_classifier(tmp_path / "model", labels, write_base(tmp_path / "base"))
    classify = qkv.task("classify", folder)
    one = classify("a fine film")
    assert one.label in ("bad", "good")
    assert classify(["a fine film"]) == [one]
    assert json.loads(json.dumps(asdict(one)))["text"] == "a fine film"
    assert qkv.task("classify", qkv.load(folder))("a fine film") == one
    for wrong, message in ((None, "text 1 is a NoneType"), (["a", 7], "text 2 is a int")):
        with pytest.raises(DataError, match=message):
            classify(wrong)


def test_a_model_that_records_its_task_keeps_it(tmp_path):
    write(tmp_path, "bert", architecture="BertForSequenceClassification")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for recorded, name in (
        ({"task": "tag"}, "tag"),
        ({"task": "fly"}, "classify"),
        (7, "classify"),
    ):
        path.write_text(json.dumps(config | {PARAMETERS: {OURS: recorded}}))
        assert task_of(str(tmp_path)) == name


def test_what_is_no_task_and_what_is_not_for_it(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("no task 'fly'; expected one of translate, ")):
        task("fly")
    write(tmp_path, "vit", architecture="ViTForImageClassification")
    for name in set(commands()) - {"recognize"}:
        with pytest.raises(ConfigError, match="expected"):
            task(name, tmp_path)
        with pytest.raises(ConfigError, match="expected"):
            task(name, qkv.load(tmp_path))


def test_a_column_that_a_task_has_not_is_refused(tmp_path, capsys):
    write(tmp_path, "vit", architecture="ViTForImageClassification")
    options = ["--data", "digits", "--columns.text", "x"]
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert (
        "columns.text = 'x': there is no such role; there are no columns" in capsys.readouterr().err
    )

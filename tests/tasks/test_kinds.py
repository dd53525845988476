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
from qkv.errors import ConfigError
from qkv.tasks.kinds import DEFAULTS, TASKS, task, task_of

KINDS = {
    ("bert", "BertForSequenceClassification"): "classify",
    ("bert", "BertForQuestionAnswering"): "answer",
    ("vit", "ViTForImageClassification"): "recognize",
    ("deit", "DeiTForImageClassificationWithTeacher"): "recognize",
    ("gpt2", "GPT2LMHeadModel"): "generate",
    ("llama", "LlamaForCausalLM"): "generate",
    ("marian", "MarianMTModel"): "translate",
    ("t5", "T5ForConditionalGeneration"): "translate",
    ("qkv_rnn", "RNNSeq2Seq"): "translate",
    ("qkv_pointer_generator", "PointerGenerator"): "summarize",
}


@pytest.mark.parametrize(("family", "architecture"), KINDS)
def test_the_config_says_what_a_model_is_for(family, architecture, tmp_path):
    write(tmp_path, family, architecture=architecture)
    assert task_of(str(tmp_path)) == KINDS[family, architecture]


def test_a_base_model_is_for_none(tmp_path):
    write(tmp_path, "bert", architecture="BertModel")
    with pytest.raises(ConfigError, match="is a Bert, which is made for none of the tasks"):
        task_of(str(tmp_path))


def test_every_task_has_a_name_a_default_and_a_way_to_be_made():
    assert set(TASKS) == set(DEFAULTS) == set(KINDS.values())
    for kind in TASKS.values():
        assert callable(kind.of)
        assert callable(kind.load)


def test_a_task_is_a_function_of_a_text_or_several(tmp_path):
    labels = Labels(["bad", "good"])
    folder = write_classifier(tmp_path / "model", labels, write_base(tmp_path / "base"))
    classify = qkv.task("classify", folder)
    one = classify("a fine film")
    assert one.label in ("bad", "good")
    assert classify(["a fine film"]) == [one]
    assert json.loads(json.dumps(asdict(one)))["text"] == "a fine film"
    assert qkv.task("classify", qkv.load(folder))("a fine film") == one


def test_what_is_no_task_and_what_is_not_for_it(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("no task 'fly'; expected one of translate, ")):
        task("fly")
    write(tmp_path, "vit", architecture="ViTForImageClassification")
    for name in ("translate", "summarize", "answer", "classify", "generate"):
        with pytest.raises(ConfigError, match="expected"):
            task(name, tmp_path)
        with pytest.raises(ConfigError, match="expected"):
            task(name, qkv.load(tmp_path))


def test_a_column_that_a_task_has_not_is_refused(tmp_path, capsys):
    write(tmp_path, "vit", architecture="ViTForImageClassification")
    options = ["--data", "digits", "--columns.text", "x"]
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert "columns.text = 'x': to recognize needs no such column" in capsys.readouterr().err

"""A folder with an adapter alone is loaded as the model that it makes of its base."""

import json
import re
import shutil

import pytest
import torch
from tests.helpers import assert_as_exact, assert_close, randomized
from tests.tasks.small import sentences, write_base, write_classifier, write_table

from qkv.checkpoints.adapters import save_adapter
from qkv.cli import main
from qkv.data.labels import Labels
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import SequenceClassifier
from qkv.models.lora import LoRAConfig, add_lora, attach_lora, lora_layers, merge_lora
from qkv.tasks.classification import TextClassifier
from qkv.tasks.pretrained import Loaded, load, save

LABELS = ["bad", "good", "mixed"]
TEXTS = ["the film was lovely", "a soup", "the place was dull and rude ."]


@pytest.fixture
def adapted(tmp_path):
    """The base, the folder of the adapter, and what the model says in float32 and float64."""
    base = write_base(tmp_path / "base")
    whole = write_classifier(tmp_path / "whole", Labels(LABELS), base)
    classifier = TextClassifier.load(whole)
    add_lora(classifier.model, LoRAConfig(rank=3, train=("classifier",)))
    with torch.no_grad():
        for layer in lora_layers(classifier.model).values():
            layer.B.normal_()
    folder = tmp_path / "adapted"
    save_adapter(classifier.model, folder, model_type="bert", base_model=str(base))
    shutil.copy(whole / "config.json", folder)
    narrow = classifier.probabilities(TEXTS)
    classifier.model.double()
    return base, folder, (narrow, classifier.probabilities(TEXTS))


def test_it_is_the_model_whose_update_was_saved(adapted, tmp_path):
    base, folder, expected = adapted
    found = TextClassifier.load(folder)
    assert_as_exact(found.probabilities(TEXTS), *expected)
    assert found.labels.names == tuple(LABELS)
    assert not lora_layers(found.model)
    assert all(p.requires_grad for p in found.model.parameters())
    untouched = load(base, architecture="BertForSequenceClassification", new="classifier")
    key = untouched.model.encoder.stack.blocks[0].self_attention.query.weight
    assert not torch.equal(key, found.model.encoder.stack.blocks[0].self_attention.query.weight)

    save(found.loaded, tmp_path / "saved")
    again = TextClassifier.load(tmp_path / "saved").probabilities(TEXTS)
    assert torch.equal(again, found.probabilities(TEXTS))


def test_it_takes_the_dtype_that_is_asked_for(adapted):
    _, folder, (_, expected) = adapted
    loaded = load(folder, dtype=torch.float64)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float64}
    found = TextClassifier(loaded, 13).probabilities(TEXTS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("file", "field"),
    [("adapter_config.json", "base_model_name_or_path"), ("config.json", "architectures")],
)
def test_what_it_updates_must_be_said(adapted, file, field):
    _, folder, _ = adapted
    content = json.loads((folder / file).read_text())
    del content[field]
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape("has only an adapter, and lacks base_model")):
        load(folder)


def test_weights_beside_an_adapter_are_the_model(adapted):
    _, folder, _ = adapted
    whole = TextClassifier.load(folder)
    merge_lora(whole.model)
    save(whole.loaded, folder.with_name("whole"))
    shutil.copy(folder / "adapter_config.json", folder.with_name("whole"))
    shutil.copy(folder / "adapter_model.safetensors", folder.with_name("whole"))
    found = TextClassifier.load(folder.with_name("whole")).probabilities(TEXTS)
    assert torch.equal(found, whole.probabilities(TEXTS))  # and not updated twice


def update_of(whole, folder, base, **options):
    """An adapter for a model in a folder, and what the model says with it."""
    model = load(whole).model
    add_lora(model, LoRAConfig(rank=3, **options))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.B.normal_()
    kind = json.loads((whole / "config.json").read_text())["model_type"]
    save_adapter(model, folder, model_type=kind, base_model=str(base))
    merge_lora(model)
    return model(torch.tensor([[3, 7, 11, 5]]))


def said(folder):
    return load(folder).model(torch.tensor([[3, 7, 11, 5]]))


@pytest.mark.parametrize("beside", [True, False])
def test_the_head_that_the_base_has_stays(beside, tmp_path):
    """A head drawn at random would answer with any class, without a word."""
    whole = write_classifier(tmp_path / "whole", Labels(LABELS), write_base(tmp_path / "base"))
    expected = update_of(whole, tmp_path / "adapted", whole)
    if beside:  # PEFT itself writes no config.json
        shutil.copy(whole / "config.json", tmp_path / "adapted")
    assert_close(said(tmp_path / "adapted"), expected, 1e-5)
    assert load(tmp_path / "adapted").config["id2label"] == dict(zip("012", LABELS, strict=True))


def test_a_head_that_nobody_has_is_missed(tmp_path):
    base = write_base(tmp_path / "base")
    whole = write_classifier(tmp_path / "whole", Labels(LABELS), base)
    update_of(whole, tmp_path / "adapted", base)
    shutil.copy(whole / "config.json", tmp_path / "adapted")
    message = "neither the base .* nor the adapter .* has the head of BertForSequenceClassificat"
    with pytest.raises(DataError, match=message):
        load(tmp_path / "adapted")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("dora", [True, False])
def test_a_language_model_has_no_head_for_classes(beside, dora, tmp_path):
    base = write_base(tmp_path / "base", "llama", "LlamaForCausalLM")
    expected = update_of(base, tmp_path / "adapted", base, dora=dora)
    if beside:
        shutil.copy(base / "config.json", tmp_path / "adapted")
    assert_close(said(tmp_path / "adapted"), expected, 1e-5)


def test_a_tied_update_cannot_be_merged_and_says_how_to_go_on(tmp_path):
    base = write_base(tmp_path / "base", "gpt2", "GPT2LMHeadModel")
    model = load(base).model
    attach_lora(model, {"embedding": LoRAConfig()}, tied=True)
    save_adapter(model, tmp_path / "adapted", model_type="gpt2", base_model=str(base))
    with pytest.raises(ConfigError, match="use the model unmerged, as load_adapter returns it"):
        load(tmp_path / "adapted")


def test_a_classifier_on_a_gguf_file(tmp_path):
    tokenizer = Tokenizer.train_bpe([text for text, _ in sentences(32)], 280)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, n_positions=17, d_model=22, n_heads=11, d_ff=29, n_layers=2
    )
    ends = {"eos_token_id": tokenizer.stop, "pad_token_id": tokenizer.pad}
    save(Loaded(randomized(GPT(config), torch.float32), tokenizer, config=ends), tmp_path / "base")
    base = tmp_path / "base.gguf"
    assert main(["convert", str(tmp_path / "base"), str(base)]) == 0
    table = write_table(tmp_path / "my.csv", sentences(8))
    command = f"train classify --base {base} --data.train {table} --output {tmp_path / 'mine'}"
    command += " --finetuning.train lora --training.epochs 1 --max-length 13"
    assert main(command.split()) == 0
    loaded = load(tmp_path / "mine")
    assert isinstance(loaded.model, SequenceClassifier)
    text = ["red and blue"]
    again = TextClassifier.of(loaded).predict(text)
    save(loaded, tmp_path / "merged")
    assert TextClassifier.of(load(tmp_path / "merged")).predict(text) == again

"""LoRA adapters in PEFT's files: there and back in every family, and all that does not fit."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.adapted import (
    CLASSIFIER,
    CONFIG,
    QUERY,
    WEIGHTS,
    adapted,
    base,
    refused,
    rewrite,
    same,
    state,
)
from tests.checkpoints.folders import contents
from tests.helpers import assert_close
from torch import nn

from qkv.checkpoints import writer
from qkv.checkpoints.adapter_names import published
from qkv.checkpoints.adapters import load_adapter, save_adapter
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig, add_lora, lora_layers, merge_lora

ALL = [
    pytest.param(family.model_type, shape.name, id=f"{family.model_type}-{shape.name}")
    for family in FAMILIES.values()
    for shape in family.architectures
]


@pytest.mark.parametrize(("model_type", "architecture"), ALL)
def test_save_load_merge_is_merge(model_type, architecture, tmp_path):
    head = ("classifier",) if hasattr(base(model_type, architecture), "classifier") else ()
    one = adapted(
        model_type, architecture, pattern="attention|feed_forward|readout|bridge", train=head
    )
    save_adapter(one, tmp_path / "adapter", model_type=model_type)
    other = base(model_type, architecture)
    names = load_adapter(other, tmp_path / "adapter")
    assert names == list(lora_layers(one))
    grads = {n: p.requires_grad for n, p in one.named_parameters()}
    assert {n: p.requires_grad for n, p in other.named_parameters()} == grads
    for each in (one, other):
        assert merge_lora(each) == names
    merged = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        assert_close(merged[name], parameter)
    before = dict(base(model_type, architecture).named_parameters())
    changed = {n for n, p in merged.items() if not torch.equal(p, before[n])}
    expected = {f"{name}.weight" for name in names}
    assert changed == expected | {n for n in merged if n.startswith("classifier.")}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_names_are_those_of_the_base_models_file(model_type, tmp_path):
    one = adapted(model_type, None, pattern="attention|feed_forward|readout")
    save_adapter(one, tmp_path / "adapter", model_type=model_type)
    said = json.loads((tmp_path / "adapter" / CONFIG).read_text())["auto_mapping"]
    place = type(one).__module__ if model_type.startswith("qkv_") else "transformers.models."
    assert said["parent_library"].startswith(place)
    merge_lora(one)
    save_checkpoint(Checkpoint(one, {"model_type": model_type}), tmp_path / "base")
    known = set(open_weights(tmp_path / "base"))
    if model_type in ("vit", "deit"):
        # PEFT has the names of transformers' modules, which are others there: see the parity tests.
        known = set(published(one, model_type)[0].rows)
    for name in load_file(tmp_path / "adapter" / WEIGHTS):
        stem = name.removeprefix("base_model.model.")
        for end in (".lora_A", ".lora_B"):
            stem = stem.replace(end, "")
        assert stem in known


def test_what_the_files_hold(tmp_path):
    one = adapted(train=("classifier",), dropout=0.25, pattern="0.*query|feed_forward.up")
    save_adapter(one, tmp_path, base_model="google-bert/bert-base-uncased")
    layers = [QUERY, *(f"bert.encoder.layer.{i}.intermediate.dense" for i in range(3))]
    assert json.loads((tmp_path / CONFIG).read_text()) == {
        "alpha_pattern": {},
        "auto_mapping": {
            "base_model_class": CLASSIFIER,
            "parent_library": "transformers.models.bert.modeling_bert",
        },
        "base_model_name_or_path": "google-bert/bert-base-uncased",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 7,
        "lora_dropout": 0.25,
        "modules_to_save": ["classifier"],
        "peft_type": "LORA",
        "r": 3,
        "rank_pattern": {},
        "target_modules": sorted(layers, key=lambda name: (name[19], name)),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    expected = {f"base_model.model.classifier.{part}" for part in ("weight", "bias")}
    expected |= {f"base_model.model.{n}.lora_{f}.weight" for n in layers for f in "AB"}
    weights = open_weights(tmp_path / WEIGHTS)
    assert set(weights) == expected
    assert weights.shards[0].metadata == {"format": "pt"}
    assert (tmp_path / WEIGHTS).stat().st_mode == (tmp_path / CONFIG).stat().st_mode
    other = base()
    load_adapter(other, tmp_path)
    assert {layer.dropout for layer in lora_layers(other).values()} == {0.25}
    assert not any(layer.training for layer in lora_layers(other).values())
    assert same(state(other), state(one))


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path):
    save_adapter(adapted(train=("classifier",)), tmp_path / "first")
    one = base()
    load_adapter(one, tmp_path / "first")
    save_adapter(one, tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_rank_for_each_pattern(tmp_path):
    one = adapted(pattern="value")
    add_lora(one, LoRAConfig(pattern="0.*query", rank=5, alpha=2.5))
    save_adapter(one, tmp_path)
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert (raw["r"], raw["lora_alpha"]) == (3, 7)
    assert (raw["rank_pattern"], raw["alpha_pattern"]) == ({QUERY: 5}, {QUERY: 2.5})
    other = base()
    load_adapter(other, tmp_path)
    loras = {n: (one.rank, one.alpha) for n, one in lora_layers(other).items()}
    assert loras == {n: (one.rank, one.alpha) for n, one in lora_layers(one).items()}


def test_an_adapter_takes_the_dtype_of_the_model(tmp_path):
    save_adapter(adapted(train=("classifier",)), tmp_path / "wide")
    one = base().bfloat16()
    load_adapter(one, tmp_path / "wide")
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    save_adapter(one, tmp_path / "narrow")
    narrow, wide = (load_file(tmp_path / f / WEIGHTS) for f in ("narrow", "wide"))
    assert all(torch.equal(narrow[name], wide[name].bfloat16()) for name in wide)


def test_an_unmerged_model_is_no_checkpoint(tmp_path):
    one = adapted(train=("classifier",))
    with pytest.raises(ConfigError, match="SequenceClassifier cannot be saved"):
        save_checkpoint(Checkpoint(one), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    x = torch.randint(37, (3, 13))
    expected = one(x)
    merge_lora(one)
    save_checkpoint(Checkpoint(one), tmp_path / "x")
    assert_close(load_checkpoint(tmp_path / "x").model(x), expected)


def test_a_save_that_dies_leaves_the_old_adapter(tmp_path, monkeypatch):
    save_adapter(adapted(), tmp_path / "adapter")
    before = contents(tmp_path / "adapter")

    def die(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(writer, "save_file", die)
    with pytest.raises(OSError, match="No space"):
        save_adapter(adapted(seed=2), tmp_path / "adapter")
    assert contents(tmp_path) == {f"adapter/{name}": one for name, one in before.items()}


def test_other_files_of_the_folder_stay(tmp_path):
    save_adapter(adapted(), tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").write_text("a note")
    shutil.copytree(tmp_path / "adapter", tmp_path / "adapter" / "second")
    before = contents(tmp_path / "adapter")
    save_adapter(adapted(seed=2), tmp_path / "adapter")
    after = contents(tmp_path / "adapter")
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {WEIGHTS}
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        save_adapter(adapted(), tmp_path / "file")


def test_an_adapter_whose_save_died_between_two_names_is_found(tmp_path):
    save_adapter(adapted(), tmp_path / "adapter")
    (tmp_path / "adapter").rename(tmp_path / ".adapter.old")
    assert load_adapter(base(), tmp_path / "adapter")


def test_what_peft_cannot_say_is_not_saved(tmp_path):
    def fails(one, message, **options):
        with pytest.raises(ConfigError, match=message):
            save_adapter(one, tmp_path / "x", **options)
        assert not (tmp_path / "x").exists()

    fails(base(), "this SequenceClassifier has no LoRA; call add_lora first")
    fails(adapted().requires_grad_(False), r"query, .* and 2 more: A is frozen")
    two = adapted(pattern="query")
    add_lora(two, LoRAConfig(pattern="value", dropout=0.5))
    fails(two, r"differ in \(dropout, rank_stabilized, dora\): \[\(0\.0, False, False\), ")
    # A class token is no module; of c_attn only a part would train; a tied weight would part; a
    # block has LoRA inside.
    vit = adapted("vit", "ViTForImageClassification", train=("encoder.class_token",))
    fails(vit, r"encoder\.class_token: besides A and B, PEFT's files can store full modules")
    gpt = adapted("gpt2", "GPT2LMHeadModel", pattern="up")
    gpt.stack.blocks[0].self_attention.query.requires_grad_(True)
    fails(gpt, r"query\.bias, stack\.blocks\.0\.self_attention\.query\.weight: besides A")
    tied = adapted("gpt2", "GPT2LMHeadModel", train=("head", "embedding"))
    fails(tied, r"embedding\.weight: besides A and B, .*neither tied")
    inside = adapted()
    inside.encoder.stack.blocks[0].requires_grad_(True)
    fails(inside, r"query\.weight.*: besides A and B.* nor with LoRA inside")
    linear = nn.Sequential(nn.Linear(3, 5))
    add_lora(linear, LoRAConfig(pattern="0"))
    fails(linear, "this Sequential is not a model of any family")
    fails(adapted(), "not a model of gpt2", model_type="gpt2")


def test_a_model_that_no_config_describes_is_not_saved(tmp_path):
    wider = adapted()
    wider.encoder.embedding = nn.Embedding(41, 22)
    strange = adapted()
    strange.encoder.config = strange.config = replace(strange.config, first_position=7)
    for one in (wider, strange):
        with pytest.raises(
            ConfigError, match="this SequenceClassifier is not a model of any family"
        ):
            save_adapter(one, tmp_path)
    mistral = adapted("mistral", "MistralForCausalLM")
    save_adapter(mistral, tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())["auto_mapping"]
    assert said["base_model_class"] == "MistralForCausalLM"  # Llama has no window


def test_modules_that_train_are_named_by_the_largest(tmp_path):
    roberta = adapted("roberta", "RobertaForSequenceClassification", train=("classifier",))
    save_adapter(roberta, tmp_path / "roberta")
    embeddings = tuple(f"encoder.{name}" for name in ("class_token", "positions", "patches"))
    vit = adapted("vit", "ViTForImageClassification", train=embeddings)
    save_adapter(vit, tmp_path / "vit")
    for name, modules in (("roberta", ["classifier"]), ("vit", ["vit.embeddings"])):
        raw = json.loads((tmp_path / name / CONFIG).read_text())
        assert raw["modules_to_save"] == modules


def test_a_model_of_several_families_needs_its_type(tmp_path):
    one = adapted("distilbert", "DistilBertForTokenClassification")
    with pytest.raises(ConfigError, match=r"a BertForTokenClassification or a Roberta.*model_type"):
        save_adapter(one, tmp_path)
    save_adapter(one, tmp_path, model_type="distilbert")
    other = base("distilbert", "DistilBertForTokenClassification")
    load_adapter(other, tmp_path)  # the names tell
    assert same(state(other), state(one))


def test_modules_to_save_that_this_model_has_not(tmp_path):
    """PEFT writes the names of every head that a classifier may have."""
    one = adapted(train=("classifier",))
    save_adapter(one, tmp_path)
    rewrite(tmp_path, modules_to_save=["classifier", "score"])
    other = base()
    load_adapter(other, tmp_path)
    assert same(state(other), state(one))


def test_a_model_with_lora_gets_no_other(tmp_path):
    one = adapted()
    save_adapter(one, tmp_path)
    refused(tmp_path, ConfigError, "SequenceClassifier already has LoRA; expected the base", one)


def test_files_that_are_missing_or_broken(tmp_path):
    refused(tmp_path / "nowhere", DataError, r"adapter_config\.json cannot be read")
    save_adapter(adapted(), tmp_path / "adapter")
    content = (tmp_path / "adapter" / WEIGHTS).read_bytes()
    (tmp_path / "adapter" / WEIGHTS).write_bytes(content[:-8])
    refused(tmp_path / "adapter", DataError, "is truncated")
    (tmp_path / "adapter" / WEIGHTS).rename(tmp_path / "adapter" / "adapter_model.bin")
    refused(tmp_path / "adapter", DataError, r"only adapter_model\.bin: a pickle can run any code")
    (tmp_path / "adapter" / "adapter_model.bin").unlink()
    refused(tmp_path / "adapter", DataError, r"adapter_model\.safetensors cannot be read")

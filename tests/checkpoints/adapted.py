"""Small models with LoRA, and adapters on the disk that are changed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.folders import model

from qkv.checkpoints.adapters import load_adapter
from qkv.models.lora import LoRAConfig, add_lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CLASSIFIER = "BertForSequenceClassification"
QUERY = "bert.encoder.layer.0.attention.self.query"


def adapted(model_type="bert", architecture=CLASSIFIER, seed=1, **options):
    """A small model with LoRA, all of whose trained parameters are random."""
    one = model(model_type, architecture).double()
    options = {"pattern": "query|value", "rank": 3, "alpha": 7.0, **options}
    add_lora(one, LoRAConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    for parameter in one.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(generator=generator)
    return one


def base(model_type="bert", architecture=CLASSIFIER):
    return model(model_type, architecture).double()


def state(one):
    return {name: (p.requires_grad, p.clone()) for name, p in one.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(
        first[n][0] == second[n][0] and torch.equal(first[n][1], second[n][1]) for n in first
    )


def rewrite(folder, change=None, **fields):
    """Change an adapter's tensors, by a function of their dict, and fields of its config."""
    tensors = load_file(folder / WEIGHTS)
    if change is not None:
        change(tensors)
    save_file(tensors, folder / WEIGHTS)
    raw = json.loads((folder / CONFIG).read_text()) | fields
    raw = {name: value for name, value in raw.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(raw))


def refused(folder, kind, message, one=None):
    one = base() if one is None else one
    before = state(one)
    with pytest.raises(kind, match=message):
        load_adapter(one, folder)
    assert same(state(one), before)

"""Names of our parameters in transformers, and therefore in PEFT."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from qkv.checkpoints.building import Uninitialized
from qkv.checkpoints.family import Architecture, Family
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.checkpoints.table import Row
from qkv.errors import ConfigError, QKVError
from qkv.models.lora import lora_layers

# In version 5 of transformers, these modules have other names in memory than in its files. PEFT
# writes the names in memory, so its files may have either.
VIT = (
    ("encoder.layer.", "layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
IN_MEMORY = {"vit": VIT, "deit": VIT}


@dataclass(frozen=True)
class Published:
    """The class of transformers that corresponds to our model.

    Args:
        name: name of the class.
        module: module that defines it.
        rows: table rows with its parameter names.
    """

    name: str
    module: str
    rows: Mapping[str, Row]


def published(model: nn.Module, model_type: str | None = None) -> list[Published]:
    """Return the matching classes for a model with or without LoRA, current names first.

    Args:
        model: our model.
        model_type: as in config.json, if several families use this model; None means all.

    Raises:
        ConfigError: if there is none.
    """
    families = FAMILIES.values() if model_type is None else [family_of(model_type)]
    matches = []
    for family in families:
        for shape in family.architectures:
            if (built := _build_alike(family, shape, model)) is not None:
                names = IN_MEMORY.get(family.model_type, ())
                matches += [_publish(family, shape, built, names)]
                matches += [_publish(family, shape, built, ())] if names else []
    if not matches:
        raise ConfigError(
            f"this {type(model).__name__} is not a model of {model_type or 'any family'} in PEFT: "
            "no config.json describes it (a setting of the model or of its head differs from "
            f"the family's); families are {', '.join(FAMILIES)}"
        )
    return matches


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters with their names without LoRA, except A and B."""
    layers = lora_layers(model)
    parameters = {}
    for name, parameter in model.named_parameters():
        module, _, part = name.rpartition(".")
        if module in layers:
            continue
        if module.removesuffix(".base") in layers:
            name = f"{module.removesuffix('.base')}.{part}"
        parameters[name] = parameter
    return parameters


def _build_alike(family: Family, shape: Architecture, model: nn.Module) -> nn.Module | None:
    """Rebuild the model from a config.json, if that gives the same model."""
    if type(model) is not shape.model or type(model.config) is not family.config:
        return None
    try:
        config = family.read_config(family.write_config(model.config), shape)
        with torch.device("meta"), Uninitialized():
            built = shape.build(config, getattr(model, "n_classes", 2))
    except QKVError:
        return None
    shapes = {name: p.shape for name, p in plain_parameters(model).items()}
    alike = (
        built.config == model.config
        and shapes == {name: p.shape for name, p in built.named_parameters()}
        and built.extra_repr() == model.extra_repr()
    )
    return built if alike else None


def _publish(
    family: Family, shape: Architecture, built: nn.Module, names: tuple[tuple[str, str], ...]
) -> Published:
    rows = {}
    for row in shape.rows(built):
        name = row.theirs.removeprefix(family.prefix) if shape.base else row.theirs
        for old, current in names:
            name = name.replace(old, current)
        if row.ours:
            rows[name] = dataclasses.replace(row, theirs=name)
    kind = family.model_type
    theirs = f"transformers.models.{kind}.modeling_{kind}"
    return Published(
        shape.name, shape.model.__module__ if kind.startswith("qkv_") else theirs, rows
    )

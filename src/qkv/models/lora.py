"""Add LoRA to a model, merge it, and list its layers (Hu et al. 2021)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from qkv.errors import ConfigError
from qkv.models.lora_layers import LoRAConfig, LoRAEmbedding, LoRALayer, LoRALinear


def add_lora(model: nn.Module, config: LoRAConfig) -> list[str]:
    """Add LoRA to the linear layers whose names match a pattern, and freeze the rest.

    Args:
        model: modified in place; its outputs do not change.
        config: the pattern, the rank, and further modules to train.

    Returns:
        The names of the layers.

    Raises:
        ConfigError: if the pattern matches no linear layer, or as in `attach_lora`.
    """
    layers = _layers(model, nn.Linear)
    whole = _parameters_of(model, config.train)
    names = [
        name
        for name, layer in {**layers, **lora_layers(model)}.items()
        if re.search(config.pattern, name) and whole.isdisjoint(map(id, layer.parameters()))
    ]
    if not names:
        kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in layers)
        raise ConfigError(
            f"no frozen linear layer has a name that matches {config.pattern!r}; this "
            f"{type(model).__name__} has: {', '.join(kinds) or 'none'}"
        )
    attach_lora(model, dict.fromkeys(names, config), config.train)
    return names


def attach_lora(
    model: nn.Module,
    configs: Mapping[str, LoRAConfig],
    train: Iterable[str] = (),
    *,
    tied: bool = False,
) -> None:
    """Add LoRA to linear layers and embeddings by name, and freeze the rest.

    Args:
        model: modified in place.
        configs: config by layer name; `pattern` and `train` are ignored.
        train: names of modules or parameters that stay trainable, as does existing LoRA.
        tied: whether a layer may share its weight with others, which then lack the update; such an
            update cannot be merged.

    Raises:
        ConfigError: if a layer does not exist, has LoRA or shares its parameters, or if a name in
            `train` does not exist or is shared. The model is then unchanged.
    """
    trained = _parameters_of(model, train)
    _check_free(model, configs, tied=tied)
    layers = _layers(model, nn.Linear | nn.Embedding)
    for name, config in configs.items():
        base = layers[name]
        linear = isinstance(base, nn.Linear)
        layer = LoRALinear(base, config) if linear else LoRAEmbedding(base, config)
        _replace(model, name, layer)
    for layer in lora_layers(model).values():
        trained |= {id(p) for p in layer.parameters(recurse=False)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def merge_lora(model: nn.Module) -> list[str]:
    """Merge every update into its weight, in place; the plain layers stay frozen.

    Returns:
        The names of the layers; empty if the model has no LoRA.

    Raises:
        ConfigError: if a layer shares its weight with a layer without the update. The model is then
            unchanged.
    """
    layers, names_of = lora_layers(model), _names_of_parameters(model)
    for name, layer in layers.items():
        if others := sorted(names_of[id(layer.base.weight)] - {f"{name}.base.weight"}):
            raise ConfigError(
                f"the update of {name} cannot be merged: it shares its weight with "
                f"{', '.join(others)}, which has no update (a tied output layer?); "
                "use the model unmerged, as load_adapter returns it"
            )
    for name, layer in layers.items():
        _replace(model, name, layer.merge())
    return list(layers)


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """Return the layers with LoRA by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALayer)}


def _layers(model: nn.Module, kind: Any) -> dict[str, Any]:
    """Return the layers of a type by name, except those inside LoRA; shared ones appear twice."""
    inside = {f"{name}.base" for name in lora_layers(model)}
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, kind) and name and name not in inside
    }


def _check_free(model: nn.Module, names: Iterable[str], *, tied: bool) -> None:
    """Check that these are linear layers or embeddings without LoRA or shared parameters."""
    layers, names_of = _layers(model, nn.Linear | nn.Embedding), _names_of_parameters(model)
    for name in names:
        if name not in layers:
            has = "already has LoRA" if name in lora_layers(model) else "is not a linear layer"
            raise ConfigError(f"{name} {has}; expected a linear layer without LoRA")
        if tied:
            continue
        every = {other for p in layers[name].parameters() for other in names_of[id(p)]}
        if shared := sorted(every - {f"{name}.weight", f"{name}.bias"}):
            raise ConfigError(
                f"{name} shares its parameters with {', '.join(shared)} (a tied output layer, or a "
                "layer that is used twice), so merging an update would change both; expected a "
                "pattern that excludes it, such as 'attention|feed_forward'"
            )


def _names_of_parameters(model: nn.Module) -> dict[int, set[str]]:
    by_id: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), set()).add(name)
    return by_id


def _parameters_of(model: nn.Module, modules: Iterable[str]) -> set[int]:
    """Return the ids of the parameters of the named modules, which no other module may share."""
    names_of = _names_of_parameters(model)
    every = [name for names in names_of.values() for name in names]
    inside: set[str] = set()
    for module in modules:
        own = {name for name in every if f"{name}.".startswith(f"{module}.")}
        if not own:
            parts = dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters())
            raise ConfigError(
                f"train = {module!r} is not a part of this {type(model).__name__}; expected one "
                f"such as {', '.join(parts)}"
            )
        inside |= own
    for names in names_of.values():
        if (outside := names - inside) and names & inside:
            raise ConfigError(
                f"{', '.join(sorted(names & inside))} is in train, but shares its parameter with "
                f"{', '.join(sorted(outside))} (a tied output layer?); name both modules or neither"
            )
    return {key for key, names in names_of.items() if names & inside}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

"""LoRA adapters in PEFT's format, which stores A and B without the base model.

The tensors have the module names of transformers, which the name tables contain, such as
`base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight`.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.checkpoints.adapter_config import (
    AdapterConfig,
    read_adapter_config,
    write_adapter_config,
)
from qkv.checkpoints.adapter_modules import join_whole
from qkv.checkpoints.adapter_names import Published, plain_parameters, published
from qkv.checkpoints.adapter_tensors import (
    check_unchanged,
    choose,
    join_updates,
    read_updates,
    read_whole,
)
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.table import TRANSPOSE, listed
from qkv.checkpoints.writer import METADATA, write_weights
from qkv.errors import ConfigError, DataError
from qkv.files import replace_folder, whole_folder
from qkv.models.lora import LoRAConfig, attach_lora, lora_layers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = "base_layer"  # PEFT's name of the layer with LoRA


def load_adapter(
    model: nn.Module, folder: str | os.PathLike[str], *, model_type: str | None = None
) -> list[str]:
    """Load an adapter in PEFT's format into its base model; on an error, nothing changes.

    Then only parameters in the files train: A and B, in the dtype of the model, and fully stored
    modules, such as a classifier.

    Args:
        model: the base model, without LoRA.
        folder: folder with adapter_config.json and adapter_model.safetensors.
        model_type: as in config.json, if several families use this model.

    Returns:
        The names of the layers with LoRA.

    Raises:
        ConfigError: if the adapter is not a plain LoRA, or the model cannot have it.
        DataError: if files are missing or broken, or tensors do not match the model; names them.
    """
    if lora_layers(model):
        raise ConfigError(
            f"this {type(model).__name__} already has LoRA; expected the base model of the adapter"
        )
    folder = whole_folder(folder)
    config = read_adapter_config(folder / CONFIG)
    tensors, unchanged = _sort(_read_tensors(folder), config)

    def where(name: str) -> str:
        return f"{PREFIX}{name} in {folder / WEIGHTS}"

    rows = choose(published(model, model_type), [*tensors, *unchanged], config, where)
    check_unchanged(model, rows, unchanged, where)
    updates = read_updates(model, rows, tensors, config, where)
    whole = read_whole(model, rows, tensors, config, where)
    attach_lora(model, {name: one.lora for name, one in updates.items()}, whole, tied=True)
    layers, parameters = lora_layers(model), plain_parameters(model)
    with torch.no_grad():
        for name, update in updates.items():
            layer = layers[name]
            layer.A.copy_(update.A)
            layer.B.copy_(update.B)
            if update.magnitude is not None and layer.magnitude is not None:
                layer.magnitude.copy_(update.magnitude)
        for name, tensor in whole.items():
            parameters[name].copy_(tensor)
    return list(layers)


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    model_type: str | None = None,
    base_model: str | None = None,
) -> None:
    """Write the LoRA of a model and other trained parameters in PEFT's format, atomically.

    Args:
        model: model with trainable LoRA.
        folder: a new folder, or one with an adapter to replace; other files in it stay.
        model_type: as in config.json, if several families use this model.
        base_model: path or Hub id of the base model, for programs that load it and the adapter.

    Raises:
        ConfigError: if the model has no LoRA, is frozen, or cannot be expressed in PEFT's format.
        DataError: if the folder is a file.
    """
    layers = lora_layers(model)
    if not layers:
        raise ConfigError(f"this {type(model).__name__} has no LoRA; call add_lora first")
    if frozen := [name for name, one in layers.items() if not one.A.requires_grad]:
        raise ConfigError(
            f"{listed(frozen)}: A is frozen, so the modules trained with it are unknown; "
            "expected a model as returned by add_lora or load_adapter"
        )
    kinds = {(one.dropout, one.rank_stabilized, one.dora) for one in layers.values()}
    if len(kinds) > 1:
        raise ConfigError(
            f"layers with LoRA differ in (dropout, rank_stabilized, dora): {sorted(kinds)}; PEFT's "
            "format has one of each"
        )
    kind = _class_of(model, model_type)
    loras, tensors = join_updates(model, kind.rows)
    modules, bias, whole = join_whole(model, kind.rows, loras.keys())
    for name, tensor in whole.items():
        module, _, part = name.rpartition(".")
        tensors[f"{module}.{BASE}.{part}" if module in loras else name] = tensor
    config = _describe(loras, modules, bias)
    extra = {
        "auto_mapping": {"base_model_class": kind.name, "parent_library": kind.module},
        "base_model_name_or_path": base_model,
        "fan_in_fan_out": any(TRANSPOSE in kind.rows[f"{name}.weight"].verbs for name in loras),
    }
    _write(Path(folder), write_adapter_config(config, **extra), tensors)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors by their names in transformers, without PEFT's prefix."""
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise DataError(
            f"{folder} has only adapter_model.bin: a pickle can run any code and is not read; "
            f"expected {WEIGHTS}, which newer versions of PEFT write"
        )
    weights = open_weights(path)
    if strange := [name for name in weights if not name.startswith(PREFIX)]:
        raise DataError(f"{listed(strange)} in {path}; expected names that begin with {PREFIX}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}


def _sort(
    tensors: Mapping[str, Tensor], config: AdapterConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Remove PEFT's parts of names, and separate untrained base-model tensors.

    Returns:
        The tensors of the adapter, and the base model's own tensors, which PEFT writes for
        embeddings and output layers.
    """
    own, unchanged = {}, {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        plain = f"{module.removesuffix(f'.{BASE}')}.{part}"
        if config.bias == "all" and {"original_module", "modules_to_save"} & {*name.split(".")}:
            continue  # with all biases, a saved module's biases are stored twice
        trained = plain == name or (part == "bias" and config.bias != "none")
        (own if trained else unchanged)[plain] = tensor
    return own, unchanged


def _class_of(model: nn.Module, model_type: str | None) -> Published:
    """Return the class of transformers that determines the names of a model."""
    kind, *others = published(model, model_type)
    for other in others:
        if other.name != kind.name and other.rows.keys() != kind.rows.keys():
            raise ConfigError(
                f"this {type(model).__name__} could be a {kind.name} or a {other.name}, which name "
                "its layers differently; pass model_type, as in config.json of the base model"
            )
    return kind


def _describe(
    loras: Mapping[str, LoRAConfig], modules: tuple[str, ...], bias: str
) -> AdapterConfig:
    """Return the most common rank and alpha, and those of other layers by name."""
    ranks = {name: lora.rank for name, lora in loras.items()}
    alphas = {name: lora.alpha for name, lora in loras.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    first = next(iter(loras.values()))
    return AdapterConfig(
        rank=rank,
        alpha=alpha,
        dropout=first.dropout,
        rank_stabilized=first.rank_stabilized,
        dora=first.dora,
        bias=bias,
        target_modules=tuple(loras),
        modules_to_save=modules,
        rank_pattern={name: one for name, one in ranks.items() if one != rank},
        alpha_pattern={name: one for name, one in alphas.items() if one != alpha},
    )


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if folder.is_file():
        raise DataError(f"{folder} is a file; expected a folder that is new or may be replaced")

    def replaced(where: str, names: Iterable[str]) -> set[str]:
        return {CONFIG, WEIGHTS} if Path(where) == folder else set()

    with replace_folder(folder) as fresh:
        if folder.is_dir():
            shutil.copytree(folder, fresh, ignore=replaced, symlinks=True, dirs_exist_ok=True)
        (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        stored = {PREFIX + name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        write_weights(stored, fresh / WEIGHTS, METADATA, like=fresh / CONFIG)

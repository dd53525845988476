"""A published checkpoint into our model, and back into the same files."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.checkpoints.building import (
    build,
    check_fresh,
    check_size,
    count_classes,
    named_architecture,
)
from qkv.checkpoints.family import Architecture, Family
from qkv.checkpoints.reader import CONFIG, Weights, companions, open_weights
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.checkpoints.table import Row, listed, load_rows, save_rows
from qkv.checkpoints.table import ignore as leave_out
from qkv.checkpoints.writer import Layout, lay_out, write_checkpoint
from qkv.errors import ConfigError, DataError, QKVError
from qkv.files import whole_folder
from qkv.json_fields import read_json
from qkv.models.lora import lora_layers

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Origin:
    """What saving back needs to know of the files that a model came from.

    Args:
        names: the table's names to those of the file.
        layout: which tensor lies in which file, by the names of the file.
        kept: tensors that the model does without, by the table's names.
        files: tokenizer and other companions.
        n_bytes: of all tensors.
    """

    names: Mapping[str, str]
    layout: Layout
    kept: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    n_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A model, the config.json that describes it, and where it came from.

    Args:
        model: in evaluation mode.
        config: as config.json has it.
        origin: of a model that was loaded.
    """

    model: nn.Module
    config: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    new: Iterable[str] | str = (),
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    ignore: Iterable[str] | str = (),
) -> Checkpoint:
    """Read a folder of the Hugging Face layout; all of it fits, or nothing is returned.

    Args:
        path: the folder, or the safetensors file in it.
        dtype: of the parameters; that of the file where None.
        device: of the parameters; the weights stay mapped where None or "cpu".
        new: modules that start fresh, such as "classifier", whether the file has them or not.
        architecture: to build another than config.json names, such as
            "BertForSequenceClassification" of a masked LM.
        labels: names of the classes, where they are others than in config.json.
        ignore: fields of config.json to pass over, as if they were not there; they are not written
            back.

    Raises:
        ConfigError: if config.json, or what is asked for, is not implemented.
        DataError: if a file is missing or broken, or tensors do not fit; it names them.
    """
    path, new = Path(path), (new,) if isinstance(new, str) else tuple(new)
    folder = whole_folder(path.parent if path.is_file() else path)
    raw = _without(read_json(folder / CONFIG), ignore, folder / CONFIG)
    if labels is not None:
        raw |= _label_fields(labels)
    weights = open_weights(path if path.is_file() else folder)
    try:
        family = family_of(raw.get("model_type"))
        own = named_architecture(raw)
        shape = family.architecture(architecture or own)
        config = family.read_config(raw, shape)
        check_size(family, config, raw, weights)
        model = build(shape, config, raw)
        fresh = _parameters_in(model, new)
        check_fresh(model, fresh, weights)
    except QKVError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from error
    rows = [
        leave_out(one.theirs) if one.ours and fresh.issuperset(one.ours) else one
        for one in shape.rows(model)
    ]
    names = _spell(family, shape, rows, weights, own_head=architecture in (None, own))
    tensors = {name: weights[theirs] for name, theirs in names.items()}
    shapes = {name: p.shape for name, p in model.named_parameters() if name not in fresh}

    def where(name: str) -> str:
        return f"{names.get(name, name)} in {weights.file(names.get(name, name))}"

    filled = load_rows(rows, tensors, shapes, where=where)
    if fresh:  # only now, when all else fits, is memory asked for
        model = shape.build(config, count_classes(raw))
    _fill(model, filled, dtype=dtype, device=device)
    if architecture is not None:
        raw["architectures"] = [architecture]
    kept = {one.theirs: tensors[one.theirs] for one in rows if not one.ours and one.theirs in names}
    return Checkpoint(model.eval(), raw, _origin(folder, weights, names, kept))


def save_checkpoint(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder of the Hugging Face layout, whole or not at all.

    What was loaded is written as it was: the same tensors under the same names in the same files,
    with the same metadata. Another head, or a model that was never loaded, is written as
    transformers would write it.

    Args:
        checkpoint: the model; without a config it becomes that of the first family that fits.
        folder: new, or to be replaced.
        files: what else to write, such as a tokenizer's files; those of the origin where None.
        shard_bytes: the size beyond which a model that was never loaded is cut into files.

    Raises:
        ConfigError: if no family of checkpoints describes the model, or its LoRA is not merged.
    """
    model, origin = checkpoint.model, checkpoint.origin
    if unmerged := list(lora_layers(model)):
        raise ConfigError(
            f"this {type(model).__name__} cannot be saved with LoRA beside {listed(unmerged)}; "
            "merge_lora(model) comes first, or save_adapter writes the LoRA alone"
        )
    family, shape, raw = _describe(model, checkpoint.config)
    tensors = save_rows(
        shape.rows(model),
        {name: p.detach() for name, p in model.named_parameters()},
        had=origin.names if origin else (),
        kept=origin.kept if origin else {},
    )
    if origin is not None and tensors.keys() == origin.names.keys():
        tensors = {origin.names[name]: tensor for name, tensor in tensors.items()}
        layout, n_bytes = origin.layout, sum(tensor.nbytes for tensor in tensors.values())
        if layout.index is not None and n_bytes != origin.n_bytes:  # another dtype
            index = {**layout.index, "total_size": n_bytes}
            layout = dataclasses.replace(layout, index=index)
    else:
        prefix = family.prefix if shape.base else ""
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        layout = lay_out(tensors, shard_bytes)
    if files is None:
        files = origin.files if origin else {}
    write_checkpoint(folder, config=raw, tensors=tensors, layout=layout, files=files)


def _without(raw: dict[str, Any], names: Iterable[str] | str, where: Path) -> dict[str, Any]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in names if name not in raw]:
        raise ConfigError(f"ignore = {unknown}: {where} has no such field")
    return {name: value for name, value in raw.items() if name not in names}


def _parameters_in(model: nn.Module, modules: Iterable[str]) -> set[str]:
    """Return the names of the parameters of some modules."""
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for module in modules:
        inside = {name for name in names if f"{name}.".startswith(f"{module}.")}
        if not inside:
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            raise ConfigError(
                f"new = {module!r} names no part of a {type(model).__name__}; expected one such as "
                f"{', '.join(parts)}"
            )
        found |= inside
    return found


def _spell(
    family: Family, shape: Architecture, rows: Iterable[Row], weights: Weights, *, own_head: bool
) -> dict[str, str]:
    """Find the table's name of each tensor, which may lack its prefix or be spelled as of old.

    Tensors of a head are left out where another head than the file's own was asked for.
    """
    known = {one.theirs for one in rows}
    prefix = family.prefix if shape.prefix is None else shape.prefix
    prefixes = {family.prefix, *(one.prefix or "" for one in family.architectures)}
    names: dict[str, str] = {}
    for theirs in weights:
        name = theirs
        for old, current in family.spellings:
            name = name.replace(old, current)
        if name not in known:
            bare = name.removeprefix(
                next((one for one in prefixes if one and name.startswith(one)), "")
            )
            name = prefix + bare if prefix + bare in known else name
        if name not in known and not own_head and not name.startswith(family.prefix):
            continue
        if name in names:
            raise DataError(
                f"{theirs} in {weights.file(theirs)} is the same tensor as {names[name]}; expected "
                "one of them"
            )
        names[name] = theirs
    return names


def _fill(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> None:
    """Put tensors in the place of parameters; what was shared stays shared."""
    kinds = {tensor.dtype for tensor in tensors.values()}
    if dtype is None and len(kinds) > 1:
        raise DataError(
            f"the parameters have the dtypes {', '.join(sorted(map(str, kinds)))}; say which one "
            "is meant, such as dtype=torch.float32"
        )
    dtype = dtype or kinds.pop()
    # Not `model.to`, which parts what is shared on devices of another kind.
    filled = {
        id(parameter): nn.Parameter(
            tensors.get(name, parameter.detach()).to(device=device, dtype=dtype).contiguous()
        )
        for name, parameter in model.named_parameters()
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, filled[id(parameter)])


def _origin(
    folder: Path, weights: Weights, names: Mapping[str, str], kept: Mapping[str, Tensor]
) -> Origin:
    shards = {shard.path.name: (shard.metadata, shard.names) for shard in weights.shards}
    files = {str(file.relative_to(folder)): file.read_bytes() for file in companions(folder)}
    n_bytes = sum(shard.n_bytes for shard in weights.shards)
    return Origin(names, Layout(shards, weights.index), kept, files, n_bytes)


def _describe(
    model: nn.Module, config: Mapping[str, Any]
) -> tuple[Family, Architecture, dict[str, Any]]:
    """Find the family and the config.json from which this very model would be built again."""
    given = config.get("model_type")
    for family in FAMILIES.values() if given is None else [family_of(given)]:
        for shape in family.architectures:
            if type(model) is not shape.model or type(model.config) is not family.config:
                continue
            raw = {**config, "architectures": [shape.name]}
            if given is None or not _says(family, shape, raw, model):
                try:
                    raw |= family.write_config(model.config)
                except ConfigError:
                    continue
                n_classes = getattr(model, "n_classes", None)
                if n_classes is not None:
                    raw |= _label_fields([f"LABEL_{i}" for i in range(n_classes)])
            if _says(family, shape, raw, model):
                kind = next(model.parameters()).dtype
                said = {key: str(kind).removeprefix("torch.") for key in ("dtype", "torch_dtype")}
                return family, shape, {**raw, **{k: v for k, v in said.items() if k in raw}}
    raise ConfigError(
        f"this {type(model).__name__} cannot be saved as {given or 'any family'}: no config.json "
        "says how it is built (one of its settings, or of its head's, is not that of the family); "
        f"families are {', '.join(FAMILIES)}"
    )


def _says(family: Family, shape: Architecture, raw: Mapping[str, Any], model: nn.Module) -> bool:
    """Tell whether a config.json describes a model: its config, its parameters and its head."""
    try:
        built = build(shape, family.read_config(raw, shape), raw)
    except QKVError:
        return False
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (built, model)]
    return bool(
        built.config == model.config
        and shapes[0] == shapes[1]
        and built.extra_repr() == model.extra_repr()
    )


def _label_fields(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }

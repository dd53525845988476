"""Load a published checkpoint into our model, and save it to the same files."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from qkv.checkpoints.reader import CONFIG, Renamed, Weights, companions, open_weights
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.checkpoints.table import Row, Tensors, listed, load_rows, save_rows
from qkv.checkpoints.table import ignore as leave_out
from qkv.checkpoints.writer import Layout, lay_out, write_checkpoint
from qkv.errors import ConfigError, DataError, QKVError
from qkv.files import whole_folder
from qkv.json_fields import read_json
from qkv.models.lora import lora_layers

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Origin:
    """The layout of the files from which a model was loaded, for saving it again.

    Args:
        names: the file's name by the table's name.
        layout: file of each tensor, by the file's names.
        kept: tensors that the model does not use, by the table's names.
        files: tokenizer and other files.
        n_bytes: total size of the tensors.
    """

    names: Mapping[str, str]
    layout: Layout
    kept: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    n_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A model with its config.json and the layout of its files.

    Args:
        model: model in evaluation mode.
        config: content of config.json.
        origin: layout of the files of a loaded model.
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
    """Load a folder in the Hugging Face layout; every tensor must match.

    Args:
        path: the folder, or the safetensors file in it.
        dtype: dtype of the parameters; None means that of the file.
        device: device of the parameters; with None or "cpu" the weights stay memory-mapped.
        new: modules to initialize anew, such as "classifier", even if the file has them.
        architecture: architecture to build instead of that in config.json, such as
            "BertForSequenceClassification" from a masked LM.
        labels: names of the classes, if they differ from config.json.
        ignore: fields of config.json to ignore; they are not written back.

    Raises:
        ConfigError: if config.json or an argument is not supported.
        DataError: if a file is missing or broken, or tensors do not match; names them.
    """
    path = Path(path)
    folder = whole_folder(path.parent if path.is_file() else path)
    raw = _without(read_json(folder / CONFIG), ignore, folder / CONFIG)
    weights = open_weights(path if path.is_file() else folder)
    checkpoint, names, kept = assemble(
        raw,
        weights,
        where=folder / CONFIG,
        dtype=dtype,
        device=device,
        new=new,
        architecture=architecture,
        labels=labels,
    )
    return dataclasses.replace(checkpoint, origin=_origin(folder, weights, names, kept))


def assemble(
    raw: dict[str, Any],
    weights: Weights,
    *,
    where: Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    new: Iterable[str] | str = (),
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    take: Callable[[nn.Module, str, Row, Tensors], Tensors] | None = None,
) -> tuple[Checkpoint, dict[str, str], dict[str, Tensor]]:
    """Build the model of a config.json from its tensors; see `load_checkpoint`.

    Args:
        raw: content of config.json; labels and architecture are set in it.
        weights: the tensors.
        where: file of the config, for messages.
        dtype: dtype of the parameters; None means that of the file.
        device: device of the parameters.
        new: modules to initialize anew.
        architecture: architecture to build instead of that in config.json.
        labels: names of the classes, if they differ from config.json.
        take: see `load_rows`; also called with the model and the file's name of the tensor.

    Returns:
        The model without an origin; the file's name by the table's name; and the tensors that the
        model does not use.
    """
    new = (new,) if isinstance(new, str) else tuple(new)
    if labels is not None:
        raw |= _label_fields(labels)
    family, shape, model = outline(raw, weights, where=where, architecture=architecture)
    try:
        fresh = _parameters_in(model, new)
        check_fresh(model, fresh, weights)
    except QKVError as error:
        raise type(error)(f"{where}: {error}") from error
    rows = [
        leave_out(one.theirs) if one.ours and fresh.issuperset(one.ours) else one
        for one in shape.rows(model)
    ]
    own_head = architecture in (None, named_architecture(raw))
    names = _spell(family, shape, rows, weights, own_head=own_head)
    tensors = Renamed(weights, names)
    shapes = {name: p.shape for name, p in model.named_parameters() if name not in fresh}

    def place(name: str) -> str:
        return f"{names.get(name, name)} in {weights.file(names.get(name, name))}"

    keep = None if take is None else (lambda one, parts: take(model, names[one.theirs], one, parts))
    filled = load_rows(rows, tensors, shapes, where=place, take=keep)
    if fresh:  # allocate memory only after all other checks
        model = shape.build(model.config, count_classes(raw))
    _fill(model, filled, dtype=dtype, device=device)
    if architecture is not None:
        raw["architectures"] = [architecture]
    kept = {one.theirs: tensors[one.theirs] for one in rows if not one.ours and one.theirs in names}
    return Checkpoint(model.eval(), raw), names, kept


def outline(
    raw: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    where: Path,
    architecture: str | None = None,
) -> tuple[Family, Architecture, Any]:
    """Build the model of a config.json with parameters on the meta device; see `assemble`.

    Returns:
        The family, the architecture and the model.
    """
    try:
        family = family_of(raw.get("model_type"))
        shape = family.architecture(architecture or named_architecture(raw))
        config = family.read_config(raw, shape)
        check_size(family, config, raw, weights)
        return family, shape, build(shape, config, raw)
    except QKVError as error:
        raise type(error)(f"{where}: {error}") from error


def save_checkpoint(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder in the Hugging Face layout, atomically.

    A loaded model is written back identically: the same tensors, names, files and metadata. A model
    with another head, or one that was never loaded, is written as transformers would write it.

    Args:
        checkpoint: the model; without a config, the first matching family is used.
        folder: a new folder, or one to replace.
        files: other files to write, such as a tokenizer's; None means those of the origin.
        shard_bytes: maximum file size for a model that was never loaded.

    Raises:
        ConfigError: if no family describes the model, or it has unmerged LoRA.
    """
    model, origin = checkpoint.model, checkpoint.origin
    family, shape, raw = describe(checkpoint)
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


def describe(checkpoint: Checkpoint) -> tuple[Family, Architecture, dict[str, Any]]:
    """Return the family and the architecture of a model, and the config.json that rebuilds it.

    Raises:
        ConfigError: if no family describes the model, or it has unmerged LoRA.
    """
    model = checkpoint.model
    if unmerged := list(lora_layers(model)):
        raise ConfigError(
            f"this {type(model).__name__} cannot be saved with LoRA on {listed(unmerged)}; "
            "call merge_lora(model) first, or save the LoRA alone with save_adapter"
        )
    return _describe(model, checkpoint.config)


def _without(raw: dict[str, Any], names: Iterable[str] | str, where: Path) -> dict[str, Any]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in names if name not in raw]:
        raise ConfigError(f"ignore = {unknown}: {where} has no such field")
    return {name: value for name, value in raw.items() if name not in names}


def _parameters_in(model: nn.Module, modules: Iterable[str]) -> set[str]:
    """Return the names of the parameters of some modules."""
    names = [name for name, _ in model.named_parameters()]
    selected: set[str] = set()
    for module in modules:
        inside = {name for name in names if f"{name}.".startswith(f"{module}.")}
        if not inside:
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            raise ConfigError(
                f"new = {module!r} is not a part of a {type(model).__name__}; expected one such as "
                f"{', '.join(parts)}"
            )
        selected |= inside
    return selected


def _spell(
    family: Family, shape: Architecture, rows: Iterable[Row], weights: Weights, *, own_head: bool
) -> dict[str, str]:
    """Find the table's name of each tensor, which may lack a prefix or have an old spelling.

    Tensors of a head are skipped if another head was requested.
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
                f"{theirs} in {weights.file(theirs)} duplicates {names[name]}; expected one of them"
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
    """Replace parameters by tensors, keeping shared parameters shared."""
    kinds = {tensor.dtype for tensor in tensors.values()}
    if dtype is None and len(kinds) > 1:
        raise DataError(
            f"the parameters have the dtypes {', '.join(sorted(map(str, kinds)))}; choose one "
            "explicitly, such as dtype=torch.float32"
        )
    dtype = dtype or kinds.pop()
    # Not `model.to`, which may separate shared parameters on other kinds of devices.
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
    """Find the family and the config.json that would rebuild exactly this model."""
    wanted = config.get("model_type")
    for family in FAMILIES.values() if wanted is None else [family_of(wanted)]:
        for shape in family.architectures:
            if type(model) is not shape.model or type(model.config) is not family.config:
                continue
            raw = {**config, "architectures": [shape.name]}
            if wanted is None or not _describes(family, shape, raw, model):
                try:
                    raw |= family.write_config(model.config)
                except ConfigError:
                    continue
                n_classes = getattr(model, "n_classes", None)
                if n_classes is not None:
                    raw |= _label_fields([f"LABEL_{i}" for i in range(n_classes)])
            if _describes(family, shape, raw, model):
                kind = next(model.parameters()).dtype
                dtypes = {key: str(kind).removeprefix("torch.") for key in ("dtype", "torch_dtype")}
                return family, shape, {**raw, **{k: v for k, v in dtypes.items() if k in raw}}
    raise ConfigError(
        f"this {type(model).__name__} cannot be saved as {wanted or 'any family'}: no config.json "
        "describes it (a setting of the model or of its head differs from the family's); "
        f"families are {', '.join(FAMILIES)}"
    )


def _describes(
    family: Family, shape: Architecture, raw: Mapping[str, Any], model: nn.Module
) -> bool:
    """Return whether a config.json describes a model's config, parameters and head."""
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

"""Save and load optimized models: packed weights in the Hugging Face layout.

config.json describes the model; its `quantization_config` describes how the weights are stored.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from qkv.checkpoints.checkpoint import Checkpoint, Origin, describe, outline
from qkv.checkpoints.gguf import GGUFFile
from qkv.checkpoints.gguf_model import Stored, load_gguf
from qkv.checkpoints.reader import CONFIG, companions, open_weights
from qkv.checkpoints.writer import Layout, lay_out, write_checkpoint
from qkv.errors import ConfigError, DataError
from qkv.inference.optimize import Choice, fastest, made_of, pack_weight, rebuild, tables
from qkv.inference.packed import Packed, Packing, from_blocks
from qkv.inference.stored import packable, restore, stored_tensors
from qkv.json_fields import named, read_json, shown

FIELD, METHOD, VERSION = "quantization_config", "qkv", 1
CPU = (None, "cpu", torch.device("cpu"))


def save_packed(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    files: Mapping[str, bytes],
    shard_bytes: int,
) -> None:
    """Write an optimized model; see `qkv.tasks.pretrained.save`.

    Raises:
        ConfigError: if no family describes the original model.
    """
    made = made_of(checkpoint.model)
    if made is None:
        raise ConfigError(
            f"this {type(checkpoint.model).__name__} has packed weights, but is only a part of "
            "what optimize returned; expected the whole"
        )
    _, _, raw = describe(dataclasses.replace(checkpoint, model=made.outline))
    raw[FIELD] = {"quant_method": METHOD, "version": VERSION, "dtype": made.dtype}
    tensors = stored_tensors(checkpoint.model)
    layout = lay_out(tensors, shard_bytes)
    write_checkpoint(folder, config=raw, tensors=tensors, layout=layout, files=files)


def is_packed(folder: Path) -> bool:
    """Return whether a folder has an optimized model."""
    if not (folder / CONFIG).is_file():
        return False
    field = read_json(folder / CONFIG).get(FIELD)
    return isinstance(field, dict) and field.get("quant_method") == METHOD


def load_packed(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    **changes: Any,
) -> Checkpoint:
    """Load an optimized model; see `qkv.load`.

    Args:
        folder: the folder.
        dtype: dtype of the parameters that are not packed; only float32.
        device: only the CPU.
        changes: further options of `load`, which are not possible here.

    Raises:
        ConfigError: if another dtype, device or change is requested.
        DataError: if a file is missing or broken, or has another version.
    """
    raw = read_json(folder / CONFIG)
    packing = _packing(raw.pop(FIELD), folder / CONFIG)
    wanted = {"dtype": dtype, "device": device, **changes}
    usual = {"dtype": (None, torch.float32), "device": CPU}
    for name, value in wanted.items():
        if value not in usual.get(name, (None, (), "")):
            raise ConfigError(
                f"{folder} is an optimized model, stored as {packing}, for processors; {name} = "
                f"{value} is not possible: load the model that it was made of"
            )
    weights = open_weights(folder)
    _, _, model = outline(raw, weights, where=folder / CONFIG)

    def where(name: str) -> str:
        return f"{named(name)} in {weights.file(name)}"

    model = restore(model, packing, weights, where=where)
    files = {str(file.relative_to(folder)): file.read_bytes() for file in companions(folder)}
    return Checkpoint(model, raw, Origin({}, Layout({}), {}, files, 0))


def load_packed_gguf(
    path: Path, *, dtype: Choice, device: torch.device | str | None = None, **options: Any
) -> tuple[Checkpoint, GGUFFile]:
    """Load a GGUF file as an optimized model, without creating a float32 model.

    Blocks that are already in the format of `dtype` are used unchanged; others are expanded and
    packed, one tensor at a time.

    Args:
        path: the file.
        dtype: how the weights are stored.
        device: only the CPU.
        options: further options of `load_gguf`.

    Raises:
        ConfigError, DataError: see `load_gguf` and `qkv.inference.optimize`.
    """
    if device not in CPU:
        raise ConfigError(f"dtype = {dtype!r} on {device}; expected the CPU")
    packer = _Packer(dtype)
    checkpoint, file = load_gguf(path, take=packer.take, dtype=torch.float32, **options)
    model = checkpoint.model.requires_grad_(False)
    new = dict(model.named_parameters())

    def packed(name: str) -> Packed:
        if name in packer.packed:
            return packer.packed.pop(name)  # frees it once it is joined
        return pack_weight(new[name], packer.dtype, is_table=name in packer.coarse)

    return dataclasses.replace(checkpoint, model=rebuild(model, packer.dtype, packed)), file


class _Packer:
    """Packs the parameters of a model as they are read."""

    dtype: Packing

    def __init__(self, dtype: Choice):
        self.choice: Choice = dtype
        self.packed = dict[str, Packed]()
        self.names, self.coarse = set[str](), set[str]()

    def take(self, model: nn.Module, name: str, stored: Stored) -> bool:
        """Pack a weight; return False for parameters that stay in the model."""
        if not self.names:
            self.dtype = fastest(model) if self.choice == "auto" else self.choice
            self.names, self.coarse = packable(model), tables(model)
        if name not in self.names:
            return False
        is_table, found = name in self.coarse, None
        if self.dtype == "int4" and (stored.kind == "Q8_0") == is_table:
            found = from_blocks(stored.kind, stored.blocks)
        if found is None:
            found = pack_weight(stored.expand(), self.dtype, is_table=is_table)
        self.packed[name] = found
        return True


def _packing(field: Mapping[str, Any], where: Path) -> Packing:
    version, dtype = field.get("version"), field.get("dtype")
    if version != VERSION:
        raise DataError(
            f"{where}: {FIELD} has version {shown(version)}; expected {VERSION}: was it written by "
            "another version of qkv?"
        )
    for packing in get_args(Packing):
        if dtype == packing:
            return packing
    raise DataError(
        f"{where}: {FIELD} has dtype {shown(dtype)}; expected one of {', '.join(get_args(Packing))}"
    )

"""Write the model of a family of llama.cpp as a GGUF file: the inverse of `gguf_model`.

As in llama.cpp, matrices have the requested type, and vectors and learned positions are float32. In
4-bit files, the matrix of the output layer (or the embedding, if it is tied) has 8 bits.
"""

import dataclasses
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.checkpoints.checkpoint import Checkpoint, describe
from qkv.checkpoints.family import Architecture, Family
from qkv.checkpoints.gguf import TYPES, BlockType
from qkv.checkpoints.gguf_model import read_config
from qkv.checkpoints.gguf_names import (
    ARCHITECTURES,
    EMBEDDING,
    FACTORS,
    HEADS,
    KEY_HEADS,
    OUTPUT,
    POSITIONS,
    GGUFArchitecture,
)
from qkv.checkpoints.gguf_rotary import write_rotary
from qkv.checkpoints.registry import FAMILIES
from qkv.checkpoints.table import TRANSPOSE, Verb, listed, permute, save_rows
from qkv.errors import ConfigError, DataError
from qkv.files import replace_file
from qkv.json_fields import named, shown

FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
QUANTIZED = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1"}
KINDS = FLOATS | QUANTIZED
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}  # enum llama_ftype
BY_NAME = {one.name: (number, one) for number, one in TYPES.items()}
# Our families by llama.cpp's name of the architecture; Mistral without a window is a Llama.
NAMES = {one.model_type: name for name, one in ARCHITECTURES.items()} | {"mistral": "llama"}


@dataclass(frozen=True)
class _Plan:
    """The content to write: metadata and tensors by their names in GGUF, before quantization."""

    path: Path
    metadata: dict[str, Any]
    entries: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.entries[name]


def write_gguf(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any],
    kind: str | None = None,
) -> None:
    """Write a model as a GGUF file, atomically.

    Args:
        checkpoint: the model.
        path: the file, new or to be replaced.
        metadata: further metadata, such as a tokenizer's.
        kind: type of the matrices, one of `KINDS`; None: that of the parameters.

    Raises:
        ConfigError: if GGUF cannot express the model.
        DataError: if a number does not fit the type.
        StorageError: if the file cannot be written.
    """
    plan = _plan(checkpoint, Path(path), metadata)
    kind = kind or str(next(checkpoint.model.parameters()).dtype).removeprefix("torch.")
    if kind not in KINDS:
        raise ConfigError(
            f"{kind} is no type of matrices in a GGUF file; expected one of {', '.join(KINDS)}"
        )
    plan.metadata["general.file_type"] = FILE_TYPES[KINDS[kind]]
    if kind in QUANTIZED:
        plan.metadata["general.quantization_version"] = 2
    kinds = {name: _kind(name, plan, KINDS[kind]) for name in plan.entries}
    with replace_file(path) as fresh:
        _write(plan, kinds, fresh)


def check_writable(checkpoint: Checkpoint) -> tuple[Family, Architecture]:
    """Return the family and architecture of a model, if GGUF has a name for it.

    Raises:
        ConfigError: if it has none.
    """
    family, shape, _ = describe(checkpoint)
    if family.model_type not in NAMES or shape is not family.architectures[0]:
        writable = [FAMILIES[name].architectures[0].name for name in NAMES]
        raise ConfigError(
            f"a {shape.name} cannot be written as GGUF; expected one of {', '.join(writable)}"
        )
    return family, shape


def _plan(checkpoint: Checkpoint, path: Path, metadata: Mapping[str, Any]) -> _Plan:
    """Name all tensors and metadata, and check that the same model is read from them."""
    model: Any = checkpoint.model
    family, shape = check_writable(checkpoint)
    name = NAMES[family.model_type]
    one, raw = ARCHITECTURES[name], family.write_config(model.config)
    own = {theirs: raw[ours] for theirs, ours in one.fields.items() if raw.get(ours) is not None}
    own["vocab_size"] = raw["vocab_size"]
    own.setdefault(KEY_HEADS, own[HEADS])
    factors = None
    if "rope.freq_base" in one.fields:
        size = raw.get("head_dim") or own["embedding_length"] // own[HEADS]
        own["rope.dimension_count"] = size
        if size * own[HEADS] != own["embedding_length"]:
            own |= {"attention.key_length": size, "attention.value_length": size}
        scaling, factors = write_rotary(
            model.config.rotary_scaling, own["rope.freq_base"], size // 2
        )
        own |= scaling
    else:
        del own[KEY_HEADS]
    described = {f"{name}.{key}": value for key, value in own.items()}
    plan = _Plan(path, {"general.architecture": name, **described, **metadata})
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    names = _names(one, own["block_count"])
    for theirs, tensor in save_rows(shape.rows(model), parameters).items():
        if theirs not in names:
            raise ConfigError(f"GGUF has no name for {theirs} of this {shape.name}")
        for verb in _verbs(names[theirs], one, own, tensor):
            (tensor,) = verb.save([tensor])
        plan.entries[names[theirs]] = tensor
    if factors is not None:
        plan.entries[FACTORS] = factors
    _check(plan, family, model.config)
    return plan


def _names(one: GGUFArchitecture, n_layers: int) -> dict[str, str]:
    """Return the names of tensors in GGUF by those in safetensors."""
    tables = [("", "", one.tensors)]
    tables += [(one.prefix.format(i), f"blk.{i}.", one.block) for i in range(n_layers)]
    return {
        f"{prefix}{ours}.{part}": f"{start}{theirs}.{part}"
        for prefix, start, table in tables
        for theirs, ours in table.items()
        for part in ("weight", "bias")
    }


def _verbs(
    name: str, one: GGUFArchitecture, own: Mapping[str, Any], tensor: Tensor
) -> tuple[Verb, ...]:
    """Return the conversions from GGUF to safetensors."""
    module, part = name.split(".")[-2:]
    if module in one.transposed and part == "weight":
        return (TRANSPOSE,)
    if module in one.interleaved:
        heads = own[one.interleaved[module]]
        return (permute(0, 2, 1, rows=(heads, tensor.shape[0] // heads // 2, 2)),)
    return ()


def _check(plan: _Plan, family: Family, config: Any) -> None:
    """Check that reading the metadata gives the model's config, except for dropout.

    Raises:
        ConfigError: naming the settings that GGUF does not have.
    """
    raw = read_config(plan)
    target = FAMILIES[raw["model_type"]]
    found = target.read_config(raw, target.architectures[0])
    ours, theirs = _settings(config), _settings(found)
    if FACTORS in plan.entries:  # compared with the factors where they are read
        theirs["rotary_scaling"] = ours["rotary_scaling"]
    differ = [
        f"{name} = {shown(value, 60)}"
        for name, value in ours.items()
        if not _same(value, theirs[name])
    ]
    if differ:
        raise ConfigError(
            f"this {family.model_type} cannot be written as GGUF, which has no setting for "
            f"{listed(differ)}"
        )


def _settings(config: Any) -> dict[str, Any]:
    """Return the settings of a config that matter to outputs, with sizes that others determine."""
    found = {name: value for name, value in vars(config).items() if "dropout" not in name}
    usual = {"n_kv_heads": config.n_heads, "d_head": config.d_model // config.n_heads}
    for name, size in usual.items():
        if name in found:
            found[name] = found[name] or size
    return found


def _same(first: Any, second: Any) -> bool:
    """Return whether two settings are equal in float32, the precision of metadata."""
    if dataclasses.is_dataclass(first) and type(first) is type(second):
        return all(_same(value, getattr(second, name)) for name, value in vars(first).items())
    if isinstance(first, float) and isinstance(second, float):
        return bool(np.float32(first) == np.float32(second))
    return first == second


def _kind(name: str, plan: _Plan, wanted: str) -> BlockType:
    """Return the type in which a tensor is written."""
    shape = plan.entries[name].shape
    if len(shape) == 1 or name == POSITIONS:
        return BY_NAME["F32"][1]
    last = OUTPUT if OUTPUT in plan.entries else EMBEDDING
    kind = BY_NAME["Q8_0" if name == last and wanted in ("Q4_0", "Q4_1") else wanted][1]
    return BY_NAME["F16"][1] if shape[-1] % kind.n_elements else kind


def _write(plan: _Plan, kinds: Mapping[str, BlockType], path: Path) -> None:
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType, GGUFValueType

    writer = GGUFWriter(path, plan.metadata["general.architecture"])
    try:
        for name, value in plan.metadata.items():
            if name != "general.architecture" and value != []:
                kind, inner = (GGUFValueType[one] if one else None for one in _types(name, value))
                assert kind is not None
                writer.add_key_value(name, value, kind, inner)
        for name, kind in kinds.items():
            shape = plan.entries[name].shape
            n_bytes = plan.entries[name].numel() // kind.n_elements * kind.n_bytes
            number = GGMLQuantizationType[kind.name]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, kind in kinds.items():  # one by one, as each takes memory
            writer.write_tensor_data(_stored(name, plan.entries[name], kind))
    finally:
        writer.close()


def _stored(name: str, tensor: Tensor, kind: BlockType) -> np.ndarray:
    """Return the content of a tensor in a type."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    tensor = tensor.cpu().to(kind.dtype or torch.float32).contiguous()
    if not torch.isfinite(tensor).all():
        raise DataError(
            f"{named(name)} has numbers that {kind.name} cannot express (infinite, or NaN); "
            "expected finite numbers, and --dtype float32 or bfloat16 for large ones"
        )
    if kind.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy()
    if kind.dtype is not None:
        return tensor.numpy()
    return quantize(tensor.numpy(), GGMLQuantizationType[kind.name])


def _types(name: str, value: Any) -> tuple[str, str | None]:
    """Return the types of metadata: of the value, and of the elements of a list.

    Raises:
        ConfigError: if a value does not fit a type.
    """
    if isinstance(value, list):
        inner = "INT32" if isinstance(value[0], int) else _types(name, value[0])[0]
        return "ARRAY", inner
    try:
        if isinstance(value, str):
            value.encode()
            return "STRING", None
        if isinstance(value, bool):
            return "BOOL", None
        kind, code = ("FLOAT32", "f") if isinstance(value, float) else ("UINT32", "I")
        struct.pack(code, value)
    except (ValueError, OverflowError, struct.error) as error:
        raise ConfigError(
            f"{name} = {shown(value)} cannot be written as GGUF: {error}; expected text, or a "
            "number of 32 bits"
        ) from error
    return kind, None

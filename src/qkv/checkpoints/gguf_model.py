"""Load the model of a GGUF file through the families of published checkpoints."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from qkv.checkpoints.checkpoint import Checkpoint, Origin, assemble
from qkv.checkpoints.gguf import GGUFFile
from qkv.checkpoints.gguf_names import (
    ARCHITECTURES,
    EMBEDDING,
    ENDS,
    FACTORS,
    HEADS,
    IMPLIED,
    OUTPUT,
    POSITIONS,
    SAMPLING,
    TOKENS,
    Contents,
    GGUFArchitecture,
)
from qkv.checkpoints.gguf_rotary import read_rotary
from qkv.checkpoints.reader import Shard, Weights
from qkv.checkpoints.table import Row, Tensors, listed, permute
from qkv.checkpoints.writer import Layout
from qkv.errors import ConfigError, DataError
from qkv.json_fields import NUMBER, check_kinds, shown, whole

GENERATION = "generation_config.json"


def load_gguf(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    ignore: Iterable[str] | str = (),
    take: Callable[[nn.Module, str, "Stored"], bool] | None = None,
    **options: Any,
) -> tuple[Checkpoint, GGUFFile]:
    """Load the model of a GGUF file; every tensor must match.

    Args:
        path: the file.
        dtype: dtype of the parameters; None means that of the matrices, or float32 if they are
            quantized. Matrices of this dtype stay memory-mapped, but for permuted ones.
        ignore: names of metadata, or of the tensor of rotary factors, to ignore.
        take: called with the model, the name of each matrix and its `Stored` form; if it returns
            True, the parameter is left on the meta device.
        options: those of `assemble`: device, new, architecture, labels.

    Raises:
        ConfigError: if the architecture, a type of tensor or a value is not implemented.
        DataError: if the file is truncated or malformed, or tensors do not match.
    """
    file = GGUFFile(path, dtype=dtype)
    weights = GGUFWeights(file, expand=take is None)
    raw = read_config(file, (ignore,) if isinstance(ignore, str) else tuple(ignore))
    dtype = dtype or weights.dtype()
    if take is not None:
        options["take"] = partial(_take, take, weights)
    checkpoint, _, _ = assemble(raw, weights, where=file.path, dtype=dtype, **options)
    defaults = {name: raw[name] for name in TOKENS if name in raw} | _sampling(file)
    files = {GENERATION: (json.dumps(defaults, indent=2) + "\n").encode()}
    # Without names: it is saved in the layout of safetensors.
    return replace(checkpoint, origin=Origin({}, Layout({}), {}, files, 0)), file


@dataclass(frozen=True)
class Stored:
    """A matrix (N, K) of a GGUF file, with rows in our order.

    Args:
        kind: its type, such as "Q4_1".
        blocks: the bytes of each row.
        expand: returns its numbers.
    """

    kind: str
    blocks: UInt8[Tensor, "N n_bytes"]
    expand: Callable[[], Tensor]


def _take(
    take: Callable[[nn.Module, str, Stored], bool],
    weights: "GGUFWeights",
    model: nn.Module,
    theirs: str,
    one: Row,
    parts: Tensors,
) -> Tensors:
    """Offer each matrix of a row as it is stored; dequantize what is not taken."""
    if any(part.ndim != 2 for part in parts):
        return one.load(weights.expanded(theirs))
    kind, blocks = weights.blocks(theirs)
    kept = list[Tensor]()
    # The verbs of a matrix only move whole rows, so they apply to the bytes of rows as well.
    for i, (ours, rows) in enumerate(zip(one.ours, one.load(blocks), strict=True)):
        stored = Stored(kind, rows, partial(_expanded, weights, theirs, one, i))
        taken = take(model, ours, stored)
        kept.append(parts[i].to("meta") if taken else stored.expand())
    return kept


def _expanded(weights: "GGUFWeights", theirs: str, one: Row, i: int) -> Tensor:
    return one.load(weights.expanded(theirs))[i]


def architecture_of(file: Contents) -> GGUFArchitecture:
    """Return the architecture of a file.

    Raises:
        ConfigError: if it is not implemented; names it.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(
            f"{file.path}: architecture {shown(name)} of GGUF is not implemented; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def read_config(file: Contents, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the config.json of a GGUF file.

    Args:
        file: the file.
        ignore: names of metadata to ignore, such as "llama.expert_count".

    Raises:
        ConfigError: if the architecture, or something in its metadata, is not implemented.
        DataError: if the file has no embedding.
    """
    one, metadata = architecture_of(file), file.metadata
    if EMBEDDING not in file.entries:
        raise DataError(f"{file.path} has no tensor {EMBEDDING}: it is not a language model")
    start = f"{metadata['general.architecture']}."
    own = {
        name.removeprefix(start): value
        for name, value in metadata.items()
        if name.startswith(start) and name not in ignore
    }
    raw: dict[str, Any] = {"model_type": one.model_type}
    raw |= {theirs: own.pop(name) for name, theirs in one.fields.items() if name in own}
    raw["vocab_size"] = file.entries[EMBEDDING].shape[0]
    raw["tie_word_embeddings"] = OUTPUT not in file.entries
    raw |= {ours: metadata[name] for ours, name in TOKENS.items() if name in metadata}
    ends = [metadata[name] for name in (TOKENS["eos_token_id"], *ENDS) if name in metadata]
    if len(ends) > 1:
        raw["eos_token_id"] = list(dict.fromkeys(ends))
    if one.model_type == "llama":
        raw["attention_bias"] = "blk.0.attn_q.bias" in file.entries
    raw |= _head_size(file, own, one, raw)
    raw |= read_rotary(file, own, raw, ignore)
    unknown = sorted(name for name, value in own.items() if value and name not in IMPLIED)
    if unknown:
        described = [f"{start}{name} = {shown(own[name], 60)}" for name in unknown]
        raise ConfigError(
            f"{file.path}: {listed(described)}: unknown, so outputs could differ from the original "
            f"model's; load(..., ignore={[start + name for name in unknown[:4]]}) ignores metadata "
            "that you know to be harmless"
        )
    return raw


def _shortest(value: Any) -> Any:
    """Return a number of 32 bits as a person writes it: 0.7 for 0.699999988079071."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _sampling(file: GGUFFile) -> dict[str, Any]:
    """Return the default sampling settings; temperature 0 is greedy."""
    metadata = file.metadata
    found = {ours: _shortest(metadata[name]) for ours, name in SAMPLING.items() if name in metadata}
    check_kinds(found, dict.fromkeys(found, NUMBER), where=f"{file.path}: general.sampling")
    if found.get("temperature") == 0:
        return {"do_sample": False}
    return {"do_sample": True, **found} if found else {}


def _head_size(
    file: Contents, own: dict[str, Any], one: GGUFArchitecture, raw: Mapping[str, Any]
) -> dict[str, int]:
    """Take the size of a head out of the metadata; all of its coordinates must rotate."""
    names = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    sizes = {name: own.pop(name) for name in names if name in own}
    if not sizes:
        return {}
    width, heads = (raw.get(name, 0) for name in one.width)
    size = next(iter(sizes.values()))
    usual = whole(1).fits(heads) and whole(1).fits(width) and size == width // heads
    if set(sizes.values()) != {size} or not (usual or one.model_type == "llama"):
        raise ConfigError(
            f"{file.path}: {', '.join(f'{name} = {shown(n)}' for name, n in sizes.items())} is not "
            f"implemented; expected one size for all, the width {shown(width)} divided by "
            f"{shown(heads)} heads"
        )
    return {"head_dim": size} if one.model_type == "llama" else {}


class GGUFWeights(Weights):
    """The tensors of a GGUF file under the names of safetensors, and in their layout.

    Args:
        gguf: the file.
        expand: whether to dequantize; else quantized tensors are on the meta device.
    """

    def __init__(self, gguf: GGUFFile, *, expand: bool = True) -> None:
        self.gguf, self.index, self._expand = gguf, None, expand
        self._verbs: dict[str, Callable[[Tensor], Tensor]] = {}
        # The rotary factors are in the config.
        self._theirs = {self._name(theirs): theirs for theirs in gguf if theirs != FACTORS}
        self.shards = tuple(
            Shard(path, None, tuple(name for name in self if self.file(name) == path), n_bytes)
            for path, n_bytes in gguf.sizes.items()
        )

    def __getitem__(self, name: str) -> Tensor:
        entry = self.gguf.entries[self._theirs[name]]
        if self._expand or entry.kind.dtype is not None:
            return self.expanded(name)
        return self._as_ours(name, torch.empty(entry.shape, device="meta", dtype=self.gguf.dtype))

    def expanded(self, name: str) -> Tensor:
        """Return a tensor, dequantized."""
        return self._as_ours(name, self.gguf[self._theirs[name]])

    def blocks(self, name: str) -> tuple[str, Tensor]:
        """Return the type of a tensor, and the bytes of its rows in the order of safetensors."""
        theirs = self._theirs[name]
        return self.gguf.entries[theirs].kind.name, self._as_ours(name, self.gguf.blocks(theirs))

    def _as_ours(self, name: str, tensor: Tensor) -> Tensor:
        try:
            return self._verbs[name](tensor) if name in self._verbs else tensor
        except (RuntimeError, IndexError) as error:
            raise DataError(
                f"{self._theirs[name]} in {self.file(name)} has shape {tuple(tensor.shape)}, which "
                f"does not fit its metadata: {error}"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._theirs)

    def __len__(self) -> int:
        return len(self._theirs)

    def file(self, name: str) -> Path:
        """Return the file with a tensor, or the first file if there is none."""
        theirs = self._theirs.get(name)
        return self.gguf.path if theirs is None else self.gguf.entries[theirs].file

    def dtype(self) -> torch.dtype:
        """Return the dtype of the matrices: where quantized or mixed, that of dequantizing.

        Positions are float32 in all files of llama.cpp.
        """
        kinds = {
            one.kind.dtype or self.gguf.dtype
            for name, one in self.gguf.entries.items()
            if len(one.shape) > 1 and name != POSITIONS
        }
        return kinds.pop() if len(kinds) == 1 else self.gguf.dtype

    def _name(self, theirs: str) -> str:
        """Return the name of a tensor in safetensors; its own if there is none."""
        one = architecture_of(self.gguf)
        found = re.fullmatch(r"(?:blk\.(0|[1-9]\d{0,5})\.)?(\w+)\.(weight|bias)", theirs, re.ASCII)
        layer, module, part = found.groups() if found else (None, "", "")
        names = one.tensors if layer is None else one.block
        if module not in names:
            return theirs
        name = (one.prefix.format(layer) if layer else "") + f"{names[module]}.{part}"
        if module in one.transposed and part == "weight":
            self._verbs[name] = lambda tensor: tensor.T
        elif module in one.interleaved:
            self._verbs[name] = self._halves(one.interleaved[module])
        return name

    def _halves(self, heads: str) -> Callable[[Tensor], Tensor]:
        """Return the conversion of adjacent rotary pairs to halves, as in safetensors."""
        metadata = self.gguf.metadata
        start = metadata["general.architecture"]
        n: Any = metadata.get(f"{start}.{heads}", metadata.get(f"{start}.{HEADS}"))
        if not whole(1).fits(n):
            raise ConfigError(
                f"{self.gguf.path}: {start}.{heads} = {shown(n)}; expected a number of heads"
            )

        def load(tensor: Tensor) -> Tensor:
            return permute(0, 2, 1, rows=(n, tensor.shape[0] // n // 2, 2)).load([tensor])[0]

        return load

"""Read GGUF, the file format of llama.cpp: metadata, and tensors that may be quantized.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The file
is memory-mapped; tensors of F32, F16 and BF16 stay mapped, others are dequantized when used.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.errors import ConfigError, DataError
from qkv.json_fields import named, shown

MAGIC, VERSIONS, BIG_ENDIAN = b"GGUF", (2, 3), (2 << 24, 3 << 24)
ALIGNMENT, MOST_AXES = 32, 4
# Types of metadata by number: the format characters of `struct`.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class BlockType:
    """How numbers are stored: in blocks of a fixed number of elements and of bytes.

    Args:
        name: its name in llama.cpp.
        n_elements: elements of a block.
        n_bytes: bytes of a block.
        dtype: the same type in PyTorch; None if it is quantized.
    """

    name: str
    n_elements: int
    n_bytes: int
    dtype: torch.dtype | None = None


TYPES = {
    0: BlockType("F32", 1, 4, torch.float32),
    1: BlockType("F16", 1, 2, torch.float16),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    8: BlockType("Q8_0", 32, 34),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2, torch.bfloat16),
}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: its type, shape, and first and last byte + 1 in the file."""

    kind: BlockType
    shape: tuple[int, ...]
    start: int
    end: int


class GGUFFile(Mapping[str, Tensor]):
    """A GGUF file: its metadata, and its tensors by name, dequantized when used.

    Args:
        path: the file.
        dtype: dtype of quantized tensors.

    Raises:
        ConfigError: if a tensor's type is not implemented, or the file is one part of several.
        DataError: if the file is truncated or malformed.
    """

    def __init__(self, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype = Path(path), dtype or torch.float32
        try:
            with self.path.open("rb") as file:
                self.n_bytes = os.fstat(file.fileno()).st_size
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(f"{self.path} cannot be read as GGUF: {error}") from error
        with content:
            self.metadata, self.entries = _Header(self.path, content).read()

    def __getitem__(self, name: str) -> Tensor:
        one = self.entries[name]
        if one.kind.dtype is None:
            return _dequantize(self.blocks(name), one).to(self.dtype)
        raw = self._mapped[one.start : one.end]
        aligned = one.start % one.kind.n_bytes == 0
        return (raw if aligned else raw.clone()).view(one.kind.dtype).view(one.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def blocks(self, name: str) -> Tensor:
        """Return a tensor's bytes as stored, of shape (..., bytes per row); `entries` has types."""
        one = self.entries[name]
        return self._mapped[one.start : one.end].view(*one.shape[:-1], -1)

    @cached_property
    def _mapped(self) -> Tensor:
        # Private: a change of a parameter does not reach the file.
        return torch.from_file(str(self.path), size=self.n_bytes, dtype=torch.uint8)


def _dequantize(blocks: Tensor, entry: Entry) -> Tensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    numbers = dequantize(blocks.numpy(), GGMLQuantizationType[entry.kind.name])
    return torch.from_numpy(np.ascontiguousarray(numbers)).view(entry.shape)


class _Header:
    """The part of the file before the tensors' data, read in order."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.at = path, content, 0

    def read(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        """Return the metadata and the tensors."""
        if (magic := self.take(4)) != MAGIC:
            raise DataError(f"{self.path} begins with {magic!r}, not with {MAGIC!r}: no GGUF file")
        if (version := self.number("I")) not in VERSIONS:
            order = " (it is big-endian)" if version in BIG_ENDIAN else ""
            raise DataError(
                f"{self.path} has version {version} of GGUF{order}; expected 2 or 3, little-endian"
            )
        n_tensors, n_fields = self.number("Q"), self.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_fields):
            name = self.text()
            if name in metadata:
                raise DataError(f"{self.path} has the metadata {named(name)} twice")
            metadata[name] = self.value(self.number("I"), name)
        if metadata.get("split.count", 0) not in (0, 1):
            raise ConfigError(
                f"{self.path} is one of {shown(metadata['split.count'])} parts, which is not "
                "implemented; join them with llama-gguf-split --merge"
            )
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 2**20:
            raise DataError(
                f"{self.path}: general.alignment = {shown(alignment)}; expected a number of bytes"
            )
        return metadata, self.entries(n_tensors, alignment)

    def entries(self, n_tensors: int, alignment: int) -> dict[str, Entry]:
        """Read the tensors' names, types and places, and check that the data is complete."""
        found: dict[str, Entry] = {}
        for _ in range(n_tensors):
            name = self.text()
            if name in found:
                raise DataError(f"{self.path} has the tensor {named(name)} twice")
            found[name] = self.entry(name)
        data = self.at + -self.at % alignment
        done, last = data, ""
        for name, one in sorted(found.items(), key=lambda item: item[1].start):
            found[name] = one = Entry(one.kind, one.shape, data + one.start, data + one.end)
            if one.start < done:
                raise DataError(f"{self.path}: the tensors {named(last)} and {named(name)} overlap")
            if one.end > len(self.content):
                raise DataError(
                    f"{self.path}: {named(name)} should end at byte {one.end}, but the file has "
                    f"{len(self.content)}: it is truncated (an interrupted download?)"
                )
            done, last = one.end, name
        return found

    def entry(self, name: str) -> Entry:
        """Read one tensor's type and place, which counts from the beginning of the data."""
        n_axes = self.number("I")
        if not 0 < n_axes <= MOST_AXES:
            raise DataError(
                f"{self.path}: {named(name)} has {n_axes} axes; expected 1 to {MOST_AXES}"
            )
        shape = tuple(reversed([self.number("Q") for _ in range(n_axes)]))
        number, start = self.number("I"), self.number("Q")
        kind = TYPES.get(number)
        if kind is None:
            raise ConfigError(
                f"{self.path}: {named(name)} has {_type_name(number)}, which is not implemented; "
                f"expected one of {', '.join(one.name for one in TYPES.values())}"
            )
        if min(shape) < 1 or shape[-1] % kind.n_elements:
            raise DataError(
                f"{self.path}: {named(name)} has type {kind.name} and shape {shape}; expected rows "
                f"of a multiple of {kind.n_elements} elements"
            )
        return Entry(kind, shape, start, start + math.prod(shape) // kind.n_elements * kind.n_bytes)

    def value(self, kind: int, name: str) -> Any:
        """Read a value of the metadata: a number, a string, or a list of them."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        inner, n = (self.number("I"), self.number("Q")) if kind == ARRAY else (None, 0)
        if inner == STRING:
            return [self.text() for _ in range(n)]
        if inner is None or inner not in SCALARS:
            raise DataError(
                f"{self.path}: {named(name)} has metadata type "
                f"{kind if inner is None else f'array of {inner}'}; expected a number, a string, "
                "or a list of either: is the file damaged?"
            )
        width = struct.calcsize(f"<{SCALARS[inner]}")
        return [
            value for (value,) in struct.iter_unpack(f"<{SCALARS[inner]}", self.take(n * width))
        ]

    def text(self) -> str:
        """Read a string: its length and UTF-8."""
        content = self.take(self.number("Q"))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: the text before byte {self.at} is not UTF-8 ({error.reason}): is "
                "the file damaged?"
            ) from error

    def number(self, kind: str) -> Any:
        """Read a number with a format character of `struct`."""
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        start = self.at
        if n > len(self.content) - start:
            raise DataError(
                f"{self.path} has {len(self.content)} bytes, but {n} are to be read from byte "
                f"{start} on: it is truncated (an interrupted download?), or damaged"
            )
        self.at += n
        return self.content[start : self.at]


def _type_name(number: int) -> str:
    from gguf.constants import GGMLQuantizationType

    try:
        return f"the quantization type {GGMLQuantizationType(number).name}"
    except ValueError:
        return f"the unknown quantization type {number}"

"""Read GGUF, the file format of llama.cpp: metadata, and tensors that may be quantized.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The file
is memory-mapped; tensors of F32, F16 and BF16 stay mapped, others are dequantized when used. A
model may be split over several files, NAME-00001-of-00003.gguf and so on, of which the first has
the metadata.
"""

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.errors import ConfigError, DataError
from qkv.json_fields import named, shown, whole

MAGIC, VERSIONS, BIG_ENDIAN = b"GGUF", (2, 3), (2 << 24, 3 << 24)
ALIGNMENT, MOST_AXES = 32, 4
# Types of metadata by number: the format characters of `struct`.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"


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
    """A tensor: its file, its type, shape, and first and last byte + 1 in the file."""

    file: Path
    kind: BlockType
    shape: tuple[int, ...]
    start: int
    end: int


class GGUFFile(Mapping[str, Tensor]):
    """A GGUF file: its metadata, and its tensors by name, dequantized when used.

    Args:
        path: the file, or the first of several.
        dtype: dtype of quantized tensors.

    Raises:
        ConfigError: if a tensor's type is not implemented.
        DataError: if the file is truncated or malformed, or one of several is missing.
    """

    def __init__(self, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype = Path(path), dtype or torch.float32
        self.metadata, self.entries, size = _read(self.path)
        self.sizes = {self.path: size}
        for i, part in enumerate(_other_parts(self.path, self.metadata), start=1):
            self._add(part, i)
        n_tensors = self.metadata.get(TENSORS)
        if len(self.sizes) > 1 and n_tensors not in (None, len(self.entries)):
            raise DataError(
                f"{self.path} announces {shown(n_tensors)} tensors, but its {len(self.sizes)} "
                f"parts have {len(self.entries)}: do they belong to the same model?"
            )
        self._mapped: dict[Path, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        one = self.entries[name]
        if one.kind.dtype is None:
            return _dequantize(self.blocks(name), one).to(self.dtype)
        raw = self._bytes(one)
        aligned = one.start % one.kind.n_bytes == 0
        return (raw if aligned else raw.clone()).view(one.kind.dtype).view(one.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def blocks(self, name: str) -> Tensor:
        """Return a tensor's bytes as stored, of shape (..., bytes per row); `entries` has types."""
        one = self.entries[name]
        return self._bytes(one).view(*one.shape[:-1], -1)

    def _bytes(self, one: Entry) -> Tensor:
        if one.file not in self._mapped:  # private: a change of a parameter does not reach the file
            size = self.sizes[one.file]
            self._mapped[one.file] = torch.from_file(str(one.file), size=size, dtype=torch.uint8)
        return self._mapped[one.file][one.start : one.end]

    def _add(self, path: Path, number: int) -> None:
        """Add the tensors of a further part."""
        if not path.is_file():
            raise DataError(
                f"{self.path} is one of {self.metadata[COUNT]} parts, of which {path.name} is "
                "missing; expected all of them in one folder"
            )
        metadata, entries, self.sizes[path] = _read(path)
        own = metadata.get(NUMBER), metadata.get(COUNT)
        if own != (number, self.metadata[COUNT]):
            raise DataError(
                f"{path}: {NUMBER} = {shown(own[0])} and {COUNT} = {shown(own[1])}; expected "
                f"{number} and {self.metadata[COUNT]}, as its name says"
            )
        if twice := sorted(self.entries.keys() & entries.keys()):
            raise DataError(f"{path} has the tensor {named(twice[0])} of another part again")
        self.entries |= entries


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Entry], int]:
    """Return the metadata and the tensors of one file, and its size."""
    try:
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise DataError(f"{path} cannot be read as GGUF: {error}") from error
    with content:
        return *_Header(path, content).read(), n_bytes


def _other_parts(path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    """Return the files that follow the first, by its name and its metadata."""
    count = metadata.get(COUNT, 0)
    if not whole(0).fits(count):
        raise DataError(f"{path}: {COUNT} = {shown(count)}; expected a number of files")
    if count < 2:
        return []
    found = PART.fullmatch(path.name)
    if found is None or int(found[3]) != count:
        raise DataError(
            f"{path} is one of {count} parts, which are found by their names; expected one such as "
            f"model-00001-of-{count:05}.gguf"
        )
    names = [f"{found[1]}-{i:05}-of-{found[3]}.gguf" for i in range(1, count + 1)]
    if path.name != names[0] or metadata.get(NUMBER) != 0:
        raise DataError(
            f"{path} is one of {count} parts; expected the first, {names[0]}, which has the "
            f"metadata ({NUMBER} = {shown(metadata.get(NUMBER))}; the first has 0)"
        )
    return [path.with_name(name) for name in names[1:]]


def _dequantize(blocks: Tensor, entry: Entry) -> Tensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # damaged scales may be infinite
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
            found[name] = one = replace(one, start=data + one.start, end=data + one.end)
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
        end = start + math.prod(shape) // kind.n_elements * kind.n_bytes
        return Entry(self.path, kind, shape, start, end)

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

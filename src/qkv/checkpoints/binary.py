"""Read little-endian files value by value, and fill models from them."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from qkv.checkpoints.table import Row, load_rows
from qkv.errors import DataError

Model = TypeVar("Model", bound=nn.Module)


class BinaryFile:
    """The bytes of a file with a read position.

    Raises:
        DataError: if reading goes beyond the end.
    """

    def __init__(self, path: Path):
        self.path = path
        self._bytes = path.read_bytes()
        self._read = 0

    @property
    def at_end(self) -> bool:
        """Whether all bytes have been read."""
        return self._read == len(self._bytes)

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        start, self._read = self._read, self._read + n
        if not start <= self._read <= len(self._bytes):
            raise DataError(
                f"{self.path} ends after {len(self._bytes)} bytes, but {n} are to be read from "
                f"byte {start} on: it is truncated, or has another format"
            )
        return self._bytes[start : self._read]

    def number(self, kind: str) -> int:
        """Read one integer with a format character of `struct`."""
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def floats(self, n: int) -> Tensor:
        """Read n float32 numbers."""
        return torch.frombuffer(bytearray(self.take(4 * n)), dtype=torch.float32)


def filled(model: Model, rows: Iterable[Row], tensors: Mapping[str, Tensor], path: Path) -> Model:
    """Copy the tensors of a file into a model, as mapped by its table.

    Raises:
        DataError: naming the tensors that do not match.
    """
    parameters = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    values = load_rows(rows, tensors, shapes, where=lambda name: f"{name} in {path}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    return model.eval()

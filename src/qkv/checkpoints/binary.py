"""Little-endian files read value by value, and models filled from what they held."""

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
    """A file's bytes, and how many of them were read.

    Raises:
        DataError: on reading beyond the end.
    """

    def __init__(self, path: Path):
        self.path = path
        self._bytes = path.read_bytes()
        self._read = 0

    @property
    def at_end(self) -> bool:
        """Whether all was read."""
        return self._read == len(self._bytes)

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        start, self._read = self._read, self._read + n
        if not start <= self._read <= len(self._bytes):
            raise DataError(
                f"{self.path} ends after {len(self._bytes)} bytes, but {n} are to be read from "
                f"byte {start} on: it was cut short, or is of another format"
            )
        return self._bytes[start : self._read]

    def number(self, kind: str) -> int:
        """Read one integer of a kind that `struct` names."""
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def floats(self, n: int) -> Tensor:
        """Read n numbers of float32."""
        return torch.frombuffer(bytearray(self.take(4 * n)), dtype=torch.float32)


def filled(model: Model, rows: Iterable[Row], tensors: Mapping[str, Tensor], path: Path) -> Model:
    """Copy a file's tensors into a model, by its table.

    Raises:
        DataError: naming the tensors that do not fit.
    """
    parameters = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    values = load_rows(rows, tensors, shapes, where=lambda name: f"{name} in {path}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    return model.eval()

"""The record: what a model computed for one input, in one safetensors file.

The structure is JSON in the metadata of the file, and names the tensors. The explorer's page reads
a record and never a model, so a saved page and a live page are one program.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from qkv.errors import DataError
from qkv.explorer.schema import check_header
from qkv.files import write_atomically
from qkv.json_fields import parse_json, quoted, shown

FORMAT, VERSION = "qkv-record", 1
FIELD = "record"  # in the metadata of the file
DTYPES = ("F16", "F32", "I32", "U8")
LARGEST = 2**31  # bytes of a file that is read


@dataclass(frozen=True)
class Record:
    """What a model computed for one input.

    Args:
        header: the structure, as JSON values; see `qkv.explorer.schema`.
        tensors: the numbers, by the names in the header.

    Raises:
        DataError: header and tensors do not match.
    """

    header: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Check the header against the tensors."""
        check_header(self.header, self.tensors)

    def encode(self) -> bytes:
        """Return the content of the file."""
        header = {"format": FORMAT, "version": VERSION, **self.header}
        tensors = {name: np.ascontiguousarray(one) for name, one in self.tensors.items()}
        text = json.dumps(header, ensure_ascii=False, allow_nan=False)
        return save_tensors(tensors, {FIELD: text})

    @classmethod
    def decode(cls, content: bytes, where: str = "the record") -> "Record":
        """Read a record from the content of a file.

        Raises:
            DataError: it is not a record, is broken, or has an unknown version.
        """
        header = _read_header(content, where)
        try:
            return cls(header, load_tensors(content))
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            if isinstance(error, DataError):
                raise DataError(f"{where}: {error}") from error
            raise DataError(f"{where} is not a safetensors file: {quoted(str(error))}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomically(path, self.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Record":
        """Read a file; see `decode`."""
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise DataError(f"{path} cannot be read: it is not a regular file")
            if path.stat().st_size > LARGEST:
                raise DataError(f"{path} has {path.stat().st_size:,} bytes; expected a record")
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read: {error}") from error
        return cls.decode(content, str(path))


def _read_header(content: bytes, where: str) -> dict[str, Any]:
    """Return the JSON in the metadata, after checking format, version and dtypes."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise DataError(
            f"{where} announces a header of {shown(length)} bytes, but has {len(content)} bytes: "
            "it is truncated, or not a safetensors file"
        )
    try:
        text = content[8 : 8 + length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its header is not UTF-8 ({error.reason})") from error
    entries = parse_json(text, where)
    metadata = entries.pop("__metadata__", None)
    written = metadata.get(FIELD) if isinstance(metadata, dict) else None
    if not isinstance(written, str):
        raise DataError(f"{where} has no record in its metadata; expected a file of qkv explore")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise DataError(f"{where}: {quoted(name)} is {shown(entry)}; expected {DTYPES}")
    header = parse_json(written, f"the record in {where}")
    known = type(header.get("version")) is int and header.get("version") == VERSION
    if header.get("format") != FORMAT or not known:
        raise DataError(
            f"{where} has format {shown(header.get('format'))}, version "
            f"{shown(header.get('version'))}; expected {FORMAT}, version {VERSION} (was it written "
            "by another version of qkv?)"
        )
    return header

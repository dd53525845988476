"""Read the files of a checkpoint: safetensors, in one file or in shards, and JSON.

Weights are memory-mapped: a tensor costs nothing before it is used, and modifying it does not
change the file. Nothing is unpickled.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from qkv.checkpoints.int8 import MARK, SCALES, expand_rows
from qkv.checkpoints.table import listed
from qkv.errors import DataError
from qkv.json_fields import named, quoted, read_json, shown

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
COMPANIONS = (".json", ".txt", ".model", ".spm", ".jinja")
# Files that belong to a checkpoint by their names, of transformers, sentence-transformers, ours.
OWN_FILES = frozenset(
    """
    added_tokens.json adapter_config.json chat_template.jinja chat_template.json config.json
    config_sentence_transformers.json copying.json generation_config.json merges.txt
    model.safetensors model.safetensors.index.json modules.json preprocessor_config.json
    processor_config.json results.json sentence_bert_config.json sentencepiece.bpe.model source.spm
    spiece.model special_tokens_map.json target.spm tokenizer.json tokenizer.model
    tokenizer_config.json video_preprocessor_config.json vocab.json vocab.txt
    """.split()  # noqa: SIM905
)
OWN_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# fmt: off
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
}
# fmt: on


@dataclass(frozen=True)
class Shard:
    """A safetensors file: its path, metadata, tensor names, and total size of the tensors."""

    path: Path
    metadata: dict[str, str] | None
    names: tuple[str, ...]
    n_bytes: int


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint, by the file's names.

    Args:
        shards: the files.
        index: metadata of the index, if there is one.
    """

    def __init__(self, shards: tuple[Shard, ...], index: dict[str, Any] | None = None):
        self._scaled = {name for shard in shards for name in _scaled(shard)}
        self.shards, self.index = tuple(map(_expanded, shards)), index
        self._shard_of = {name: shard for shard in self.shards for name in shard.names}
        self._open = {shard.path: _open(shard.path) for shard in shards}

    def __getitem__(self, name: str) -> Tensor:
        path = self._shard_of[name].path
        tensor = self._read(name, path)
        if name not in self._scaled:
            return tensor
        return expand_rows(tensor, self._read(name + SCALES, path), f"{named(name)} in {path}")

    def _read(self, name: str, path: Path) -> Tensor:
        try:
            return self._open[path].get_tensor(name)
        except (SafetensorError, RuntimeError, OverflowError, TypeError, ValueError) as error:
            raise DataError(f"{named(name)} in {path} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)

    def file(self, name: str) -> Path:
        """Return the file with a tensor, or the first file if there is none."""
        return self._shard_of.get(name, self.shards[0]).path


class Renamed(Mapping[str, Tensor]):
    """Tensors under new names; each is read when it is used.

    Args:
        tensors: the tensors.
        names: the original name of each tensor, by its new name.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]):
        self.tensors, self.names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _scaled(shard: Shard) -> set[str]:
    """Return the names of the matrices that are stored as int8 with scales."""
    metadata: Any = shard.metadata  # of any type in a hostile file
    if not isinstance(metadata, dict) or any(metadata.get(k) != v for k, v in MARK.items()):
        return set()
    names = set(shard.names)
    scales = [name for name in names if name.endswith(SCALES)]
    if alone := [name for name in scales if name.removesuffix(SCALES) not in names]:
        raise DataError(
            f"{shard.path} has {named(alone[0])} without the matrix that it scales; expected both "
            "in one file"
        )
    return {name.removesuffix(SCALES) for name in names if name.endswith(SCALES)} & names


def _expanded(shard: Shard) -> Shard:
    """Return the shard as if its matrices were stored in full."""
    scaled = _scaled(shard)
    if not scaled:
        return shard
    names = tuple(
        one for one in shard.names if one.removesuffix(SCALES) not in scaled or one in scaled
    )
    metadata = {key: value for key, value in (shard.metadata or {}).items() if key not in MARK}
    return replace(shard, names=names, metadata=metadata)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (
        SafetensorError,
        OSError,
        TypeError,
        ValueError,
    ) as error:  # safetensors' JSON is stricter than ours
        raise DataError(f"{path} is not a safetensors file: {quoted(str(error))}") from error


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Memory-map the weights of a folder, or of one safetensors file.

    Raises:
        DataError: if there are none, a file is incomplete, or index and shards disagree.
    """
    path = Path(path)
    if not path.is_dir():
        return Weights((read_shard(path),))
    if (path / WEIGHTS).is_file():
        return Weights((read_shard(path / WEIGHTS),))
    if (path / INDEX).is_file():
        return _open_shards(path / INDEX)
    pickled = sorted(file.name for pattern in PICKLED for file in path.glob(pattern))
    if pickled:
        raise DataError(
            f"{path} has only {listed(pickled)}, but neither {WEIGHTS} nor {INDEX}: a pickle can "
            'run any code and is not read. Convert a PyTorch file with: python -c "import torch; '
            "from safetensors.torch import save_file; save_file({name: tensor.clone() for name, "
            f"tensor in torch.load('{pickled[0]}', weights_only=True).items()}}, '{WEIGHTS}', "
            "{'format': 'pt'})\""
        )
    raise DataError(f"{path} has no weights: expected {WEIGHTS}, or {INDEX} and its shards")


def companions(folder: Path) -> list[Path]:
    """Return the other files of a checkpoint, such as those of the tokenizer.

    These are text files and SentencePiece models at the top level, and config.json one level below,
    which configures the pooling of sentence-transformers.
    """
    tops = [path for path in folder.glob("*") if path.suffix in COMPANIONS]
    own = (folder / CONFIG, folder / INDEX)
    return sorted(
        path for path in (*tops, *folder.glob(f"*/{CONFIG}")) if path.is_file() and path not in own
    )


def belongs(path: Path) -> bool:
    """Return whether a file belongs to a checkpoint by its name; others may be anyone's notes."""
    return path.name in OWN_FILES or OWN_SHARD.fullmatch(path.name) is not None


def read_shard(path: Path) -> Shard:
    """Check that a safetensors file is complete and that its header matches its data.

    Raises:
        DataError: naming the file, and the tensor if there is one.
    """
    header, n_bytes = _read_header(path)
    metadata = header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(f"{path}: {named(name)}", entry)
    done = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if start != done:
            raise DataError(
                f"{path}: {name} should begin at byte {done} of the data, where the previous "
                f"tensor ends, but begins at {start} according to the header"
            )
        if end > n_bytes:
            raise DataError(
                f"{path}: {name} should end at byte {end} of the data, which has {n_bytes}: the "
                "file is truncated (an interrupted download?)"
            )
        done = end
    if done != n_bytes:
        raise DataError(f"{path}: {n_bytes - done} bytes follow the last tensor; expected none")
    return Shard(path, metadata, tuple(header), n_bytes)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header and the number of bytes after it."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} cannot be read: it is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise DataError(
                    f"{path} announces a header of {length} bytes, but has {size} bytes: it is "
                    "truncated, or not a safetensors file"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise DataError(f"{path}: its header is a JSON {type(header).__name__}; expected an object")
    return header, size - 8 - length


def _check_entry(where: str, entry: Any) -> None:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end))
        length = prod(shape) * BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} is described by {shown(entry)}; expected a known dtype, a shape and two "
            "offsets"
        ) from error
    if not whole or end - start != length:
        raise DataError(
            f"{where} has dtype {dtype} and shape {shown(shape)}, which are {shown(length)} bytes, "
            f"but its offsets are {shown(start)} and {shown(end)}: the header is wrong"
        )


def _open_shards(path: Path) -> Weights:
    index = read_json(path)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise DataError(f"{path} has no weight_map from the names of tensors to files")
    for file in places.values():
        # Windows has both separators, and drives.
        if file in ("", "..") or PureWindowsPath(file).name != file:
            raise DataError(
                f"{path} names the file {file!r}; expected a file in the same folder, as a "
                "checkpoint never reads outside its folder"
            )
    shards = []
    for file in sorted(set(places.values())):
        names = [name for name, place in places.items() if place == file]
        if not (path.parent / file).is_file():
            raise DataError(f"{path} names {file}, which is missing, for {listed(names)}")
        shard = read_shard(path.parent / file)
        if wrong := sorted(set(names) ^ set(shard.names)):
            raise DataError(
                f"{path} and {shard.path} disagree on which tensors it has: {listed(wrong)}"
            )
        shards.append(shard)
    if not shards:
        raise DataError(f"{path} names no tensor")
    return Weights(tuple(shards), index.get("metadata"))

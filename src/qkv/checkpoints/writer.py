"""Write the folder of a checkpoint atomically."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qkv.checkpoints.reader import CONFIG, INDEX, WEIGHTS, belongs, companions
from qkv.errors import DataError
from qkv.files import replace_folder

METADATA = {"format": "pt"}  # required by transformers


@dataclass(frozen=True)
class Layout:
    """The distribution of tensors over files.

    Args:
        files: metadata and tensor names of each file.
        index: metadata of the index, if there is one.
    """

    files: Mapping[str, tuple[Mapping[str, str] | None, Sequence[str]]]
    index: Mapping[str, Any] | None = None


def lay_out(tensors: Mapping[str, Tensor], shard_bytes: int) -> Layout:
    """Distribute tensors over as many files as needed, in order."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += tensor.nbytes
    if len(shards) == 1:
        return Layout({WEIGHTS: (METADATA, shards[0])})
    stem, n = WEIGHTS.removesuffix(".safetensors"), len(shards)
    names = [f"{stem}-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]
    total = sum(tensor.nbytes for tensor in tensors.values())
    files = {name: (METADATA, shard) for name, shard in zip(names, shards, strict=True)}
    return Layout(files, {"total_size": total})


def write_checkpoint(
    folder: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    layout: Layout,
    files: Mapping[str, bytes],
) -> None:
    """Write or replace a folder; the old checkpoint remains until the new one is complete.

    Files in the folder that do not belong to a checkpoint (notes, logs) are kept.

    Args:
        folder: folder of the checkpoint.
        config: content of config.json.
        tensors: tensors by their names in the file.
        layout: distribution over files.
        files: other files, such as a tokenizer's.

    Raises:
        DataError: if the folder is a file.
        StorageError: if the folder cannot be written.
    """
    folder = Path(folder)
    if folder.is_file():
        raise DataError(f"{folder} is a file; expected a folder that is new or may be replaced")
    with replace_folder(folder) as fresh:
        (fresh / CONFIG).write_bytes(_json(config))
        for name, content in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        for name, (metadata, names) in layout.files.items():
            write_weights(_distinct(names, tensors), fresh / name, metadata, like=fresh / CONFIG)
        if layout.index is not None:
            places = {name: file for file, (_, names) in layout.files.items() for name in names}
            places = dict(sorted(places.items()))  # as transformers does
            index = {"metadata": layout.index, "weight_map": places}
            (fresh / INDEX).write_bytes(_json(index))
        _carry_over(folder, fresh)


def write_weights(
    tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None, *, like: Path
) -> None:
    """Write a safetensors file with the usual permissions; the library makes it private.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        save_file(tensors, path, None if metadata is None else dict(metadata))
    except SafetensorError as error:  # raised for a full disk
        raise OSError(str(error)) from error
    shutil.copymode(like, path)


def _carry_over(old: Path, fresh: Path) -> None:
    replaced = {path for path in (*companions(old), *old.glob("*.safetensors")) if belongs(path)}
    replaced |= {old / CONFIG, old / INDEX}
    for path in old.rglob("*"):
        target = fresh / path.relative_to(old)
        if path in replaced or target.exists() or (path.is_dir() and not path.is_symlink()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():  # possibly broken
            target.symlink_to(os.readlink(path))
            continue
        try:
            os.link(path, target)  # a hard link, so that large logs are not copied
        except OSError:
            shutil.copy2(path, target)


def _distinct(names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, which the format cannot express."""
    chosen: dict[str, Tensor] = {}
    seen = set()
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        chosen[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return chosen


def _json(value: Mapping[str, Any]) -> bytes:
    """Return JSON without escapes, except for unpaired surrogates."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")

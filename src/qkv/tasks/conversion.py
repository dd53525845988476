"""Convert models of any readable format to the Hugging Face layout."""

import os
from pathlib import Path

import torch

from qkv.checkpoints.convert import convert
from qkv.checkpoints.reader import CONFIG, INDEX, WEIGHTS, companions
from qkv.errors import DataError, StorageError
from qkv.tasks.pretrained import Loaded, load, save

BINARY = "model.bin"
# Suffixes of other formats, which a user may expect as an output.
FORMATS = frozenset(
    """
    .bin .ckpt .gguf .ggml .h5 .mlmodel .msgpack .onnx .ot .pb .pkl .pt .pth .pte .safetensors
    .tflite .zip
    """.split()  # noqa: SIM905
)


def read_model(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    allow_download: bool = False,
) -> Loaded:
    """Read a model that `qkv.load` can read, or one of llama2.c or CTranslate2.

    Args:
        source: a folder, a file, a shipped model, or an id of the Hugging Face Hub.
        dtype: dtype of the parameters; None: as in the file.
        allow_download: whether to look on the Hub for a base model that a file names.

    Raises:
        ConfigError: if the model is not implemented.
        DataError: if there is no such model, or its files are broken.
    """
    path = Path(source)
    file = path / BINARY if path.is_dir() and not (path / CONFIG).exists() else path
    if file.suffix == ".bin" and file.is_file():
        return Loaded(convert(file).to(dtype=dtype))
    return load(source, dtype=dtype, allow_download=allow_download)


def convert_model(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    allow_download: bool = False,
) -> Loaded:
    """Read a model, write it in the Hugging Face layout, and return it.

    Args:
        source: see `read_model`.
        folder: new, empty, or a checkpoint to replace.
        dtype: dtype of the parameters; None: as in the source.
        allow_download: whether to look on the Hub for a base model that a file names.

    Raises:
        ConfigError: if the model is not implemented.
        DataError: if the source cannot be read, or the folder has files but no checkpoint; they are
            left as they are.
    """
    check_target(folder)
    loaded = read_model(source, dtype=dtype, allow_download=allow_download)
    save(loaded, folder)
    return loaded


def check_target(folder: str | os.PathLike[str]) -> None:
    """Check that a model can be written to a folder.

    Raises:
        DataError: the folder has files but no checkpoint, or is a file.
        StorageError: it cannot be accessed, such as a name that is too long.
    """
    folder = Path(folder)
    if folder.suffix in FORMATS and not folder.is_dir():
        raise DataError(
            f"{folder} looks like a file, but a model is written as a folder in the Hugging Face "
            f"layout ({CONFIG}, {WEIGHTS}, tokenizer), which other programs read; "
            f"{folder.suffix} is not implemented"
        )
    try:
        other = folder.exists() and not folder.is_dir()  # such as /dev/null
        foreign = folder.is_dir() and any(folder.iterdir()) and not _is_checkpoint(folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}") from error
    if other:
        raise DataError(f"{folder} is not a folder; expected a folder, new or to be replaced")
    if foreign:
        raise DataError(
            f"{folder} has files, but no checkpoint ({CONFIG} with {WEIGHTS} or {INDEX}), so it is "
            "not changed; expected a new folder, an empty one, or a checkpoint to replace"
        )


def checkpoint_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a checkpoint: config.json, weights, tokenizer and other files."""
    folder = Path(folder)
    weights = sorted(folder.glob("*.safetensors"))
    own = [path for path in (folder / CONFIG, folder / INDEX) if path.exists()]
    return [*own, *weights, *companions(folder)]


def _is_checkpoint(folder: Path) -> bool:
    has_weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    return has_weights and (folder / CONFIG).is_file()

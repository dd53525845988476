"""Convert models of any readable format to the Hugging Face layout, or to an engine's format."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from qkv.checkpoints.convert import convert
from qkv.checkpoints.gguf_write import KINDS, QUANTIZED
from qkv.checkpoints.reader import CONFIG, INDEX, WEIGHTS, belongs, companions
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError, DataError, StorageError
from qkv.tasks.export import check_file, export_gguf
from qkv.tasks.export_folder import check_export
from qkv.tasks.pretrained import GGUF, Loaded, load, save

BINARY, RESULTS = "model.bin", "results.json"
FLOATS = ("float32", "float16", "bfloat16", "float64")
Format = Literal["huggingface", "gguf", "onnx", "ctranslate2"]
# A description of each format, and its dtypes.
DTYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "huggingface": ("a folder in the Hugging Face layout", FLOATS),
    "gguf": ("a GGUF file", tuple(KINDS)),
    "onnx": ("a folder with graphs of ONNX", ("float32",)),
    "ctranslate2": ("a folder of CTranslate2", ("float32", "float16", "bfloat16", "int8")),
}
# Modules that write a folder for an engine, each with `export` and MARKS.
ENGINES = {"onnx": "qkv.tasks.export_onnx", "ctranslate2": "qkv.tasks.export_ctranslate2"}
# Suffixes of other formats, which a user may expect as an output.
FORMATS = frozenset(
    """
    .bin .ckpt .ggml .h5 .mlmodel .msgpack .onnx .ot .pb .pkl .pt .pth .pte .safetensors
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


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Args:
        loaded: the model that was read.
        files: the files that were written.
        left_out: features of the model that the written format does not support.
    """

    loaded: Loaded
    files: Sequence[Path]
    left_out: Sequence[str] = ()


def convert_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: Format | None = None,
    dtype: str | None = None,
    allow_download: bool = False,
) -> Converted:
    """Read a model, and write it in the Hugging Face layout or in an engine's format.

    Args:
        source: see `read_model`.
        target: a folder: new, empty, or one of the same format to replace; or a file NAME.gguf.
        format: None means "gguf" for a target that ends in .gguf, else "huggingface".
        dtype: dtype of the parameters, such as "float32", or a quantization of the format, such as
            "q8_0"; None: the source's dtype, if the format has it.
        allow_download: whether to look on the Hub for a base model that a file names.

    Raises:
        ConfigError: if the model is not implemented, or the format cannot express it.
        DataError: if the source cannot be read, or the target contains something else, such as a
            trained model, which is not changed.
        MissingDependencyError: if a package of the engine is not installed.
    """
    target = Path(target)
    chosen = format or ("gguf" if target.suffix == GGUF else "huggingface")
    _check_options(target, chosen, dtype)
    # float32 preserves all weights. Other dtypes are converted from the weights as stored.
    exact = torch.float32 if chosen in ENGINES or dtype == "float32" else None
    if chosen == "gguf":
        check_file(target)
        loaded = read_model(source, dtype=exact, allow_download=allow_download)
        return Converted(loaded, [target], export_gguf(loaded, target, kind=dtype))
    check_target(target, chosen)
    if chosen in ENGINES:
        loaded = read_model(source, dtype=exact, allow_download=allow_download)
        left_out = importlib.import_module(ENGINES[chosen]).export(loaded, target, kind=dtype)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        return Converted(loaded, files, left_out)
    _check_trained(target)
    loaded = read_model(
        source, dtype=getattr(torch, dtype) if dtype else None, allow_download=allow_download
    )
    _check_foreign(target, loaded)
    save(loaded, target)
    return Converted(loaded, checkpoint_files(target))


def _check_options(target: Path, format: str, dtype: str | None) -> None:
    """Check that a format matches the suffix of the target, and has the dtype.

    Raises:
        ConfigError: if it does not.
    """
    if format not in DTYPES:
        raise ConfigError(f"--format {format}; expected one of {', '.join(DTYPES)}")
    what, dtypes = DTYPES[format]
    if (target.suffix == GGUF) != (format == "gguf"):
        raise ConfigError(
            f"--format {format} for {target}; expected a file NAME{GGUF} for gguf, and a folder "
            "for the other formats"
        )
    if dtype is not None and dtype not in dtypes:
        more = f" (a file NAME{GGUF} may also have {', '.join(QUANTIZED)})"
        raise ConfigError(
            f"--dtype {dtype} for {what}; expected one of {', '.join(dtypes)}"
            + (more if format == "huggingface" else "")
        )


def _check_trained(folder: Path) -> None:
    """Check that a folder to replace does not contain a trained model.

    Raises:
        DataError: if it does.
    """
    runs = folder.with_name(f"{folder.name}.training")
    kept = [path for path in (folder / RESULTS, runs) if path.exists()]
    if kept and folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder} holds a trained model ({listed([str(path) for path in kept])}), so it is "
            "not changed; expected another folder, or remove it first"
        )


def _check_foreign(folder: Path, loaded: Loaded) -> None:
    """Check that a folder to replace has no file that would become part of the new checkpoint.

    Raises:
        DataError: if it has.
    """
    if not folder.is_dir():
        return
    found = [*companions(folder), *folder.glob("*.safetensors")]
    foreign = sorted(
        path.name
        for path in found
        if not belongs(path)
        and loaded.files.get(str(path.relative_to(folder))) != path.read_bytes()
    )
    if foreign:
        raise DataError(
            f"{folder} has {listed(foreign)} beside a checkpoint, so it is not changed; expected "
            "another folder, or move what is to be kept"
        )


def check_target(folder: str | os.PathLike[str], format: str = "huggingface") -> None:
    """Check that a model can be written to a folder in a format.

    Raises:
        DataError: the folder has files but no checkpoint, or is a file.
        StorageError: it cannot be accessed, for example because its name is too long.
    """
    folder = Path(folder)
    if folder.suffix in FORMATS and not folder.is_dir():
        raise DataError(
            f"{folder} looks like a file, but a model is written as a folder in the Hugging Face "
            f"layout ({CONFIG}, {WEIGHTS}, tokenizer), which other programs read, as a file "
            f"NAME{GGUF}, or as a folder with --format {' or '.join(ENGINES)}; a file "
            f"{folder.suffix} is not implemented"
        )
    if format in ENGINES:
        check_export(folder, importlib.import_module(ENGINES[format]).MARKS)
        return
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

"""Export folders for other programs, atomically, without overwriting unrelated files."""

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from qkv.checkpoints.checkpoint import Checkpoint, describe
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError, DataError, MissingDependencyError, StorageError
from qkv.files import replace_folder
from qkv.inference.optimize import is_optimized
from qkv.tasks.pretrained import Loaded, other_files


def engine(name: str, what: str) -> ModuleType:
    """Import a package of the extra `export`.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingDependencyError(
            f'{what} needs {package}, which is not installed: pip install "qkv[export]"'
        ) from error


def describe_plain(loaded: Loaded, name: str) -> dict[str, Any]:
    """Return the config.json of a model whose weights are plain tensors.

    Raises:
        ConfigError: if it is optimized, has unmerged LoRA, or no family describes it.
    """
    if is_optimized(loaded.model):
        raise ConfigError(
            f"an optimized model cannot be written as {name}; expected the model that it was made "
            "of"
        )
    _, _, raw = describe(Checkpoint(loaded.model, loaded.config, loaded.origin))
    return raw


def check_export(folder: str | os.PathLike[str], marks: Sequence[str]) -> None:
    """Check that a folder is new, empty, or an earlier export of the same kind.

    Args:
        folder: the folder to write.
        marks: file names, at least one of which every export of this kind has.

    Raises:
        DataError: if it is something else.
        StorageError: if it cannot be accessed.
    """
    folder = Path(folder)
    try:
        other = folder.exists() and not folder.is_dir()
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder} cannot be written: {error}") from error
    if other:
        raise DataError(f"{folder} is not a folder; expected a folder, new or to be replaced")
    if names and not names & set(marks):
        raise DataError(
            f"{folder} has files, but no {' or '.join(marks)}, so it is not changed; expected a "
            "new folder, an empty one, or an earlier export to replace"
        )


@contextmanager
def replace_export(
    folder: str | os.PathLike[str], loaded: Loaded, marks: Sequence[str], *, config: Any = None
) -> Iterator[Path]:
    """Yield a folder with the tokenizer and other files; it replaces an earlier export at exit.

    Args:
        folder: the folder to write.
        loaded: the model whose files are copied.
        marks: see `check_export`.
        config: content of config.json, if this format has one as in the Hugging Face layout.

    Raises:
        DataError: if the folder is something else, or has a file that the new export lacks.
        StorageError: if it cannot be written.
    """
    check_export(folder, marks)
    with replace_folder(folder) as fresh:
        for name, content in other_files(loaded).items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        if config is not None:
            (fresh / "config.json").write_text(
                json.dumps(config, indent=2) + "\n", encoding="utf-8"
            )
        yield fresh
        old = Path(folder)
        kept = {path.name for path in old.iterdir()} if old.is_dir() else set[str]()
        if foreign := sorted(kept - {path.name for path in fresh.iterdir()}):
            raise DataError(
                f"{folder} has {listed(foreign)} beside an export, so it is not changed; expected "
                "another folder, or move what is to be kept"
            )

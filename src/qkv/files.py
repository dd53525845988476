"""Files and folders that are either whole or absent: a crash never leaves half of one behind."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file such that its name always holds the old content or the new, never a part.

    The content goes to a sibling, because a rename is atomic only within one file system, and it
    reaches the disk before the rename does. Missing folders are made.

    Args:
        path: the file to write or to replace.
        content: bytes as they are, or text as UTF-8 with its newlines unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private (0600), and the rename would keep that.
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with sibling.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill an empty folder, which takes the place of `path` when the block ends without an error.

    A folder cannot be renamed onto another. The old one steps aside first, under a name by which
    `whole_folder` finds it should the process die between the two renames.

    Args:
        path: the folder to write or to replace, with all that is in it.
    """
    path = Path(path).resolve()
    aside = _aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _restore(path)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    fresh.mkdir()
    try:
        yield fresh
        for entry in (*fresh.rglob("*"), fresh):
            _sync(entry)
        if path.exists():
            os.rename(path, aside)
        os.rename(fresh, path)
        _sync(path.parent)
    finally:
        _restore(path)
        shutil.rmtree(fresh, ignore_errors=True)


def whole_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder to read: `path`, or what stood there before a save that died halfway."""
    path = Path(path).resolve()
    return _aside(path) if not path.exists() and _aside(path).is_dir() else path


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _restore(path: Path) -> None:
    """Put the old folder back where no new one came; remove it where one did."""
    if not path.exists() and _aside(path).is_dir():
        os.rename(_aside(path), path)
    shutil.rmtree(_aside(path), ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # only POSIX opens folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

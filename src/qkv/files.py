"""Files and folders that are either complete or absent, with one writer at a time.

A crash never leaves a partial file or folder under its name. Leftovers under other names
(`.NAME.<hex>`, `.NAME.old`, `.NAME.lock`) are restored or removed by the next writer.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qkv.errors import QKVError, StorageError

UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<end>[0-9a-f]{32}|old|lock)", re.DOTALL)
FORGOTTEN = 3600  # seconds after which an unfinished file or lock is abandoned: writing takes less
_held: set[str] = set()  # the locks of this process, as names of owner files


@dataclass(frozen=True)
class Owner:
    """A writing process: its id, which may be reused, and its start time."""

    pid: int
    host: str
    began: str | None

    @property
    def lives(self) -> bool:
        """Return whether the process still runs; assumed for processes of other machines."""
        if self.host != socket.gethostname():
            return True
        began = _began(self.pid)
        return _runs(self.pid) and (None in (began, self.began) or began == self.began)


def _is_special(path: Path) -> bool:
    """Return whether a path is a folder, a device, or a pipe."""
    try:
        return path.exists() and not path.is_file()
    except (OSError, ValueError):  # a name that no file can have: reported where it is written
        return False


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file atomically: its name always refers to the complete old or new content.

    The content is written to a sibling, as a rename is atomic only within a file system, and is
    flushed to disk before the rename. Missing folders are created.

    Args:
        path: the file to write or to replace.
        content: bytes, or text, which is written as UTF-8 with its newlines unchanged.

    Raises:
        StorageError: it is not a regular file, or cannot be written; the old content remains.
    """
    data = content.encode() if isinstance(content, str) else content
    with replace_file(path) as sibling, sibling.open("xb") as file:
        file.write(data)


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a new file, which replaces `path` if the block ends without an error.

    Args:
        path: the file to write or to replace; missing folders are created.

    Raises:
        StorageError: it is not a regular file, or cannot be written; the old content remains.
    """
    path = Path(path)
    if _is_special(path):
        raise StorageError(f"{path} is not a regular file; expected a file, new or to be replaced")
    with _explained(path, ValueError):  # NUL or a lone surrogate in the name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile, whose files are private (0600) and would stay so after the rename.
        sibling = _sibling(path)
        try:
            yield sibling
            _sync(sibling)
            os.replace(sibling, path)
        finally:
            sibling.unlink(missing_ok=True)
        _forget(path)


@contextmanager
def replace_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder, which replaces `path` if the block ends without an error.

    A folder cannot be renamed onto another, so the old one is renamed first. If the process dies
    between the two renames, `whole_folder` finds it under that name.

    Args:
        path: the folder to write, or to replace with all its content.

    Raises:
        StorageError: it is not a folder, cannot be written, or another process writes it; the old
            content remains.
    """
    path = _resolved(path)
    aside = _aside(path)
    with _explained(path):
        other = path.exists() and not path.is_dir()
    if other:  # a file, or a device such as /dev/null
        raise StorageError(f"{path} is not a folder; expected a folder, new or to be replaced")
    with _explained(path), only_writer(path):
        _restore(path)
        for entry in _unfinished(path):
            _remove(entry)
        fresh = _sibling(path)
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


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it into memory as a whole.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder to read: `path`, or the old one if a save was interrupted halfway."""
    path = Path(path).resolve()
    return _aside(path) if not path.exists() and _aside(path).is_dir() else path


def remove_folder(path: Path) -> None:
    """Remove a folder so that its name never refers to a part of it."""
    gone = _sibling(path)
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Restore or remove the leftovers of killed writers in a folder without active writers."""
    for entry in folder.glob(".*"):
        if match := UNFINISHED.fullmatch(entry.name):
            if match["end"] == "old":
                _restore(folder / match["name"])
            else:
                _remove(entry)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a file or folder for writing by a single thread of a single process.

    The lock is a folder `.NAME.lock` with a file that names its owner. It is created by a rename,
    which fails if a lock exists, so it always has an owner. The lock of a killed owner is taken
    over by the process that removes its file. System locks are not needed, as not every file system
    has them.

    Raises:
        StorageError: another process holds the lock (the message names it), or it cannot be
            written.
    """
    path = _resolved(path)
    lock, token = path.with_name(f".{path.name}.lock"), uuid.uuid4().hex
    mine = _sibling(lock)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            mine.mkdir()
            owner = Owner(os.getpid(), socket.gethostname(), _began(os.getpid()))
            (mine / token).write_text(json.dumps(asdict(owner)), encoding="utf-8")
            _held.add(token)
            _take(mine, lock, path)
            _forget(lock)
        except BaseException:
            _held.discard(token)
            shutil.rmtree(mine, ignore_errors=True)
            raise
    try:
        yield
    finally:
        _held.discard(token)
        with suppress(OSError):
            (lock / token).unlink()
            lock.rmdir()


def _take(mine: Path, lock: Path, path: Path) -> None:
    """Rename a lock to its final name, after removing locks of dead owners."""
    for attempt in range(9):
        try:
            os.rename(mine, lock)
        except OSError:
            if attempt == 8 or not lock.is_dir():
                raise
        else:
            return
        for file in lock.iterdir():
            owner = _owner(file)
            if owner is not None and (
                file.name in _held if owner.pid == os.getpid() else owner.lives
            ):
                raise StorageError(
                    f"{path} is being written by process {owner.pid} on {owner.host}; expected one "
                    f"writer at a time: wait for it, or choose another path (if that process no "
                    f"longer exists, remove {lock})"
                )
            file.unlink(missing_ok=True)
        with suppress(OSError):
            lock.rmdir()  # for systems on which a rename does not replace an empty folder


def _owner(file: Path) -> Owner | None:
    """Return the owner of a lock; None if it was never written to disk, or was just removed."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return Owner(int(content["pid"]), str(content["host"]), content["began"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _runs(pid: int) -> bool:
    """Return whether a process with this id exists."""
    if os.name == "nt":  # os.kill would end the process, whatever the signal
        import ctypes

        kernel: Any = ctypes.windll.kernel32  # pyright: ignore[reportAttributeAccessIssue]
        handle, code = kernel.OpenProcess(0x1000, False, pid), ctypes.c_ulong()
        runs = bool(handle) and kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return bool(runs) and code.value == 259  # still active
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's process
    return True


def _began(pid: int) -> str | None:
    """Return a string that identifies the start time of a process; None if unknown.

    In containers, process ids are small and recur with each start.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return f"{boot} {int(stat.rpartition(b')')[2].split()[19])}"
    except (OSError, ValueError, IndexError):
        return None


@contextmanager
def _explained(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Convert system errors to StorageError."""
    try:
        yield
    except QKVError:
        raise
    except (OSError, *also) as error:
        raise StorageError(
            f"{path} cannot be written: {error} (is the disk full, or is write permission missing?)"
        ) from error


def _resolved(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, a lone surrogate, a loop of links
        raise StorageError(f"{os.fspath(path)!r} cannot be written: {error}") from error


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _unfinished(path: Path) -> Iterator[Path]:
    """Yield unfinished files of writers of this file or folder, or of its lock."""
    for entry in path.parent.glob(".*"):
        match = UNFINISHED.fullmatch(entry.name)
        if match and match["name"] == path.name and len(match["end"]) == 32:
            yield entry


def _forget(path: Path) -> None:
    """Remove old leftovers of killed writers, for which no lock names an owner."""
    for entry in _unfinished(path):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > FORGOTTEN:
                _remove(entry)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _restore(path: Path) -> None:
    """Restore the old folder if there is no new one; otherwise remove it."""
    if not path.exists() and _aside(path).is_dir():
        os.rename(_aside(path), path)
    _remove(_aside(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return  # a link has no content, and a pipe would wait for a writer
    if path.is_dir() and os.name != "posix":
        return  # only POSIX opens folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files and folders that are either whole or absent, and that have one writer at a time.

A crash never leaves half of a file or folder behind under its name. What it leaves under other
names (`.NAME.<hex>`, `.NAME.old`, `.NAME.lock`) is put back or removed by the next writer.
"""

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

from qkv.errors import StorageError

UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<end>[0-9a-f]{32}|old|lock)", re.DOTALL)
FORGOTTEN = 3600  # seconds after which an unfinished file or lock has no writer: they take less
_held: set[str] = set()  # the locks of this process, by the names of their owners' files


@dataclass(frozen=True)
class Owner:
    """A process that writes: its number, which another may get after it, and when it began."""

    pid: int
    host: str
    began: str | None

    @property
    def lives(self) -> bool:
        """Whether it still runs; of another machine nobody can say, so it does."""
        if self.host != socket.gethostname():
            return True
        began = _began(self.pid)
        return _runs(self.pid) and (None in (began, self.began) or began == self.began)


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file such that its name always holds the old content or the new, never a part.

    The content goes to a sibling, because a rename is atomic only within one file system, and it
    reaches the disk before the rename does. Missing folders are made.

    Args:
        path: the file to write or to replace.
        content: bytes as they are, or text as UTF-8 with its newlines unchanged.

    Raises:
        StorageError: it cannot be written; what was there is there still.
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    with _explained(path, ValueError):  # NUL or a lone surrogate in the name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its files are private (0600), and the rename would keep that.
        sibling = _sibling(path)
        try:
            with sibling.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(sibling, path)
        finally:
            sibling.unlink(missing_ok=True)
        _forget(path)


@contextmanager
def replace_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill an empty folder, which takes the place of `path` when the block ends without an error.

    A folder cannot be renamed onto another. The old one steps aside first, under a name by which
    `whole_folder` finds it should the process die between the two renames.

    Args:
        path: the folder to write or to replace, with all that is in it.

    Raises:
        StorageError: it cannot be written, or another process writes it; what was there is there
            still.
    """
    path = _resolved(path)
    aside = _aside(path)
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


def whole_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder to read: `path`, or what stood there before a save that died halfway."""
    path = Path(path).resolve()
    return _aside(path) if not path.exists() and _aside(path).is_dir() else path


def remove_folder(path: Path) -> None:
    """Remove a folder such that its name never holds a part of it."""
    gone = _sibling(path)
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Put back or remove what writers that were killed left in a folder, which nobody writes to."""
    for entry in folder.glob(".*"):
        if match := UNFINISHED.fullmatch(entry.name):
            if match["end"] == "old":
                _restore(folder / match["name"])
            else:
                _remove(entry)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a file or folder as the only process, and the only thread of it, that writes to it.

    The lock is a folder `.NAME.lock` with a file that names its owner. It arrives by a rename,
    which fails where there is one, and so never without its owner; a lock whose owner was killed is
    taken over by whoever removes that file. Nothing of this needs locks of the system, which not
    every file system has.

    Raises:
        StorageError: another one holds it, which is named; or a lock cannot be written.
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
    """Rename a lock to its place, from which locks of dead owners are removed."""
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
                    f"writer at a time: wait for it, or choose another place (if there is no such "
                    f"process, remove {lock})"
                )
            file.unlink(missing_ok=True)
        with suppress(OSError):
            lock.rmdir()  # where a rename does not replace an empty folder


def _owner(file: Path) -> Owner | None:
    """Whom a lock names; None where that never reached the disk, or the lock has just gone."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return Owner(int(content["pid"]), str(content["host"]), content["began"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _runs(pid: int) -> bool:
    """Whether there is a process of this number."""
    if os.name == "nt":  # where os.kill ends a process, whatever the signal
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
        return True  # another user's
    return True


def _began(pid: int) -> str | None:
    """When a process began, in a word that tells it from a later one of its number; None: unknown.

    In containers numbers are small, and come again with each start.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return f"{boot} {int(stat.rpartition(b')')[2].split()[19])}"
    except (OSError, ValueError, IndexError):
        return None


@contextmanager
def _explained(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Errors of the system as ours."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, *also) as error:
        raise StorageError(
            f"{path} cannot be written: {error} (is the disk full, or the place not yours to write "
            "to?)"
        ) from error


def _resolved(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # NUL, a lone surrogate, a loop of links
        raise StorageError(f"{os.fspath(path)!r} cannot be written: {error}") from error


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _unfinished(path: Path) -> Iterator[Path]:
    """What writers of this file or folder, or of its lock, did not finish."""
    for entry in path.parent.glob(".*"):
        match = UNFINISHED.fullmatch(entry.name)
        if match and match["name"] == path.name and len(match["end"]) == 32:
            yield entry


def _forget(path: Path) -> None:
    """Remove what a killed writer of a file or lock left, of which no lock says that it is dead."""
    for entry in _unfinished(path):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > FORGOTTEN:
                _remove(entry)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _restore(path: Path) -> None:
    """Put the old folder back where no new one came; remove it where one did."""
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
        return  # a link has no bytes of its own, and a pipe would wait for a writer
    if path.is_dir() and os.name != "posix":
        return  # only POSIX opens folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

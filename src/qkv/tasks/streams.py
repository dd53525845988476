"""The standard streams, which may be closed, full, or in an encoding that lacks characters."""

import codecs
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from qkv.errors import StorageError

FIRST_SPEAKS = 2.0  # seconds, after which torchrun has ended the others

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def prepare_streams() -> None:
    r"""Escape characters that a stream's encoding lacks, such as \u0142, instead of failing.

    Raises:
        StorageError: standard output is closed.
    """
    if sys.stderr is None:  # otherwise rich prints it to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise StorageError(
            "standard output is closed; expected a file, a pipe or a terminal to print to "
            f"({os.devnull} discards the output)"
        )


def flush_output() -> None:
    """Flush standard output while an error can still be reported, not at interpreter exit.

    Raises:
        OSError: standard output cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
        raise


def _silence(stream: Any) -> None:
    """Redirect a broken stream to the null device, so that Python does not fail at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, AttributeError, ValueError):  # it has no file descriptor
        return


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress remarks and progress bars in this thread, such as a server's."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Return whether this thread prints neither remarks nor progress bars."""
    return _quiet.get()


def further_process() -> str:
    """Return the rank of this process if torchrun started it and it is not the first, else ""."""
    return os.environ.get("RANK", "").lstrip("0")


def complain(message: str) -> None:
    """Print a line to standard error; ignore errors, since the exit status reports them."""
    if is_quiet():
        return
    if number := further_process():  # the first reports errors of all
        time.sleep(FIRST_SPEAKS)
        message = f"process {number}: {message}"
    try:
        print(f"qkv: {message}", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def takes_unicode() -> bool:
    """Return whether standard output is encoded as UTF-8; a server's answers always are."""
    if is_quiet():
        return True
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name == "utf-8"


def as_text(argument: str) -> str:
    """Return an argument as it was typed.

    Python keeps bytes that the locale cannot decode as lone surrogates (PEP 383), which suits the
    names of files but not texts.
    """
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return argument


def is_interactive() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_input() -> bytes:
    """Read all of standard input; b"" if it is closed."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()

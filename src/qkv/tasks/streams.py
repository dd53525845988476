"""The process's streams, which may be closed, full, or of an encoding that lacks letters."""

import codecs
import io
import os
import sys
from typing import Any

from qkv.errors import StorageError


def prepare_streams() -> None:
    r"""Let every text be printed: what the encoding of a stream lacks becomes \u0142 or the like.

    Raises:
        StorageError: standard output is closed.
    """
    if sys.stderr is None:  # else what is meant for it would be printed to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise StorageError(
            "standard output is closed; expected a file, a pipe or a terminal to print to "
            f"({os.devnull} takes what nobody is to see)"
        )


def flush_output() -> None:
    """Write what was printed now, not after the end of the program, where no error can be told.

    Raises:
        OSError: standard output takes nothing more.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
        raise


def _silence(stream: Any) -> None:
    """Lead a stream that takes nothing more into the void, or Python complains at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, AttributeError, ValueError):  # it is no file
        return


def complain(message: str) -> None:
    """Print a line where the errors go; where they go nowhere the exit status has to do."""
    try:
        print(f"qkv: {message}", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def takes_unicode() -> bool:
    """Whether what is printed becomes UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name == "utf-8"


def as_text(argument: str) -> str:
    """An argument that is a text, as it was typed.

    Where the locale lacks letters, Python keeps their bytes as half pairs of surrogates (PEP 383):
    right for names of files, but no text.
    """
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return argument


def is_interactive() -> bool:
    """Whether a person would have to type the input."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_input() -> bytes:
    """All of standard input; nothing where it is closed."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()

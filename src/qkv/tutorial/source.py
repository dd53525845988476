"""Show the library's source code, so that the tutorial shows the code that runs."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax

from qkv.errors import ConfigError
from qkv.inference.build import HEADERS, SOURCE

Shown = Callable[..., Any] | type


def source_of(shown: Shown) -> str:
    """Return the dedented source of a function or class.

    Raises:
        ConfigError: it has no Python source.
    """
    return textwrap.dedent("".join(_lines(shown)[0])).rstrip()


def location(shown: Shown) -> str:
    """Return the file that defines a function or class, as a path in its repository.

    Raises:
        ConfigError: it has no Python source.
    """
    _lines(shown)
    file = Path(inspect.getfile(inspect.unwrap(shown))).resolve()
    top = importlib.import_module(shown.__module__.partition(".")[0])
    if not hasattr(top, "__path__"):
        return file.name
    path = file.relative_to(Path(inspect.getfile(top)).resolve().parents[1])
    # Only qkv is known to be in src/; an installed copy corresponds to the repository's file.
    return (Path("src") / path if top.__name__ == "qkv" else path).as_posix()


def show_source(*shown: Shown) -> None:
    """Print the source of functions and classes, each with its file and line."""
    for one in shown:
        _show(f"# {location(one)}, line {_lines(one)[1]}\n{source_of(one)}\n", "python")


def show_kernel(*names: str) -> None:
    """Print functions of the kernel in C++, each with its file and line.

    Raises:
        ConfigError: the kernel has no function or member of that name.
    """
    for name in names:
        text, file, line = kernel_source_of(name)
        _show(f"// src/qkv/inference/{file.name}, line {line}\n{text}\n", "cpp")


def kernel_source_of(name: str) -> tuple[str, Path, int]:
    """Return the dedented definition of a function of the kernel, its file, and its first line.

    Raises:
        ConfigError: the kernel has no function or member of that name.
    """
    head = re.compile(rf"( *)(static )?[\w:<>*& ]+ \*?{re.escape(name)}\(")  # a type, then the name
    for file in (SOURCE, *(SOURCE.with_name(header) for header in HEADERS)):
        lines = file.read_text(encoding="utf-8").splitlines()
        for first, line in enumerate(lines):
            if match := head.match(line):
                last = lines.index(match[1] + "}", first)
                text = "\n".join(lines[first : last + 1])
                return textwrap.dedent(text), file, first + 1
    raise ConfigError(f"{SOURCE.name} and its headers define no function {name!r}")


def _show(text: str, language: str) -> None:
    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, language, background_color="default"))
    else:
        print(text)


def _lines(shown: Shown) -> tuple[list[str], int]:
    try:
        return inspect.getsourcelines(inspect.unwrap(shown))
    except (TypeError, OSError) as error:
        raise ConfigError(
            f"{shown!r} has no source to show; expected a function or a class written in Python"
        ) from error

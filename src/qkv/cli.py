"""The command ``qkv``: each subcommand is a function, its options are the function's arguments."""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from qkv.errors import QKVError
from qkv.tasks.recipe import train_recipe


def info() -> None:
    """Show the versions, the devices and the extras that this installation has."""
    table = Table(show_header=False)
    table.add_row("qkv", importlib.metadata.version("qkv"))
    table.add_row("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    table.add_row("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    table.add_row("devices", ", ".join(_devices()))
    for extra, missing in _extras().items():
        table.add_row(f"extra {extra}", f"without {', '.join(missing)}" if missing else "installed")
    Console().print(table)


def _devices() -> Iterator[str]:
    yield "cpu"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    if torch.backends.mps.is_available():
        yield "mps"


def _extras() -> dict[str, list[str]]:
    """Each extra of the package, with those of its requirements that are not installed."""
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("qkv") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match:
            package, extra = match.groups()
            missing.setdefault(extra, [])
            if not _installed(package):
                missing[extra].append(package)
    return missing


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


COMMANDS: dict[str, Callable[..., None]] = {"info": info, "train": train_recipe}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="qkv",
        description="Attention and Transformers in PyTorch.",
        version=importlib.metadata.version("qkv"),
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, function in COMMANDS.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=summary)
        if command.add_function_arguments(function):
            command.add_argument("--config", action="config", help="a recipe, in YAML")
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _with_recipe(arguments: Sequence[str]) -> list[str]:
    """``qkv train dates.yaml`` is short for ``qkv train --config dates.yaml``."""
    match list(arguments):
        case [command, recipe, *rest] if not recipe.startswith("-"):
            return [command, "--config", recipe, *rest]
        case unchanged:
            return unchanged


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: What follows ``qkv``; those of the process by default.

    Returns:
        0 when done, 2 where the command line or what it names is wrong, 130 where interrupted.
    """
    try:
        parser = _parser()
        config = parser.parse_args(_with_recipe(sys.argv[1:] if arguments is None else arguments))
        options = parser.instantiate(config)[config.command].as_dict()
        options.pop("config", None)
        COMMANDS[config.command](**options)
    except QKVError as error:
        print(f"qkv: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0

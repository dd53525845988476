"""The command ``qkv``: each subcommand is a function, its options are the function's arguments.

What a function takes by position only has no name on the command line either.
"""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from qkv.checkpoints.overview import (
    FORMATS,
    list_architectures,
    list_families,
    list_fields,
    list_refused,
)
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.errors import QKVError
from qkv.tasks.conversion import checkpoint_files, convert_model, read_model
from qkv.tasks.inspection import describe_model, inspect_model, size
from qkv.tasks.recipe import train_recipe
from qkv.zoo.catalog import list_zoo


def info() -> None:
    """Show the versions, the devices and the extras that this installation has."""
    facts = {
        "qkv": importlib.metadata.version("qkv"),
        "Python": f"{platform.python_version()} on {platform.platform(terse=True)}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "devices": ", ".join(_devices()),
    }
    for extra, missing in _extras().items():
        facts[f"extra {extra}"] = f"without {', '.join(missing)}" if missing else "installed"
    _show("installed", [{"what": what, "value": value} for what, value in facts.items()])


def models(*, family: str | None = None) -> None:
    """List the families that load and save, the models of the zoo, and other formats that are read.

    Args:
        family: a model_type such as bert: what is implemented of it, and what is refused.
    """
    if family is None:
        _show("families", list_families(FAMILIES.values()))
        _show("zoo", list_zoo())
        _show("formats that qkv convert reads as well", FORMATS)
        return
    found = family_of(family)
    _show("architectures of config.json", list_architectures(found))
    _show("fields of config.json", list_fields(found))
    _show("refused unless", list_refused(found))


def convert(
    source: str,
    folder: Path,
    /,
    *,
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None,
) -> None:
    """Write a model in the Hugging Face layout: config.json, model.safetensors, tokenizer.

    Args:
        source: a checkpoint's folder, a name of the zoo, an id of the Hugging Face Hub, or a file
            of llama2.c (.bin) or CTranslate2 (model.bin).
        folder: new, empty, or a checkpoint to replace; anything else is left as it is.
        dtype: of the weights; that of the source unless given.
    """
    loaded = convert_model(source, folder, dtype=getattr(torch, dtype) if dtype else None)
    _show("read", describe_model(loaded))
    files = checkpoint_files(folder)
    _show("written", [{"file": str(file), "size": size(file.stat().st_size)} for file in files])


def inspect(model: str, /) -> None:
    """Show what a model consists of: blocks, attention, parameters by part, memory by dtype.

    Args:
        model: a checkpoint's folder, a name of the zoo, an id of the Hugging Face Hub, or a file of
            llama2.c (.bin) or CTranslate2 (model.bin).
    """
    for title, rows in inspect_model(read_model(model)).items():
        _show(title, rows)


def _show(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table; into a pipe each row is one line, however long."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False).print(table)


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


COMMANDS: dict[str, Callable[..., None]] = {
    "info": info,
    "models": models,
    "inspect": inspect,
    "convert": convert,
    "train": train_recipe,
}


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
        command.add_function_arguments(function, as_positional=bool(_by_position(function)))
        if _takes_recipe(function):
            command.add_argument("--config", action="config", help="a recipe, in YAML")
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _by_position(function: Callable[..., None]) -> list[str]:
    """The arguments that have no name on the command line."""
    parameters = signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is Parameter.POSITIONAL_ONLY]


def _takes_recipe(function: Callable[..., None]) -> bool:
    """Whether there are options that must be given: a file can give them all."""
    parameters = signature(function).parameters.values()
    return not _by_position(function) and any(one.default is one.empty for one in parameters)


def _with_recipe(arguments: Sequence[str]) -> list[str]:
    """``qkv train dates.yaml`` is short for ``qkv train --config dates.yaml``."""
    match list(arguments):
        case [command, recipe, *rest] if command in COMMANDS and not recipe.startswith("-"):
            if _takes_recipe(COMMANDS[command]):
                return [command, "--config", recipe, *rest]
    return list(arguments)


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
        function = COMMANDS[config.command]
        function(*[options.pop(name) for name in _by_position(function)], **options)
    except QKVError as error:
        print(f"qkv: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0

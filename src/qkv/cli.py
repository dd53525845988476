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
import yaml
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
from qkv.errors import ConfigError, DataError, Interrupted, QKVError
from qkv.tasks.conversion import checkpoint_files, convert_model, read_model
from qkv.tasks.dates import train_dates
from qkv.tasks.inspection import describe_model, inspect_model, size
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


def train(*, config: Path) -> None:
    """Train a model as a recipe says: qkv train RECIPE.yaml --any.field VALUE.

    Which fields there are depends on the recipe's task: qkv train RECIPE.yaml --help. The same
    command again goes on where a run was stopped.

    Args:
        config: the recipe, in YAML.
    """
    raise ConfigError(f"{config} was not read as a recipe")  # its task's function stands here


COMMANDS: dict[str, Callable[..., None]] = {
    "info": info,
    "models": models,
    "inspect": inspect,
    "convert": convert,
    "train": train,
}

# What `task` in a recipe may say.
RECIPES: dict[str, Callable[..., None]] = {"dates": train_dates}


def _parser(commands: Mapping[str, Callable[..., None]]) -> ArgumentParser:
    parser = ArgumentParser(
        prog="qkv",
        description="Attention and Transformers in PyTorch.",
        version=importlib.metadata.version("qkv"),
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, function in commands.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=summary)
        command.add_function_arguments(function, as_positional=bool(_by_position(function)))
        if function in RECIPES.values():
            command.add_argument("--config", action="config", help="a recipe, in YAML")
            command.add_argument("--task", help="of the recipe", choices=tuple(RECIPES))
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _by_position(function: Callable[..., None]) -> list[str]:
    """The arguments that have no name on the command line."""
    parameters = signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is Parameter.POSITIONAL_ONLY]


def _with_recipe(
    arguments: Sequence[str],
) -> tuple[list[str], Mapping[str, Callable[..., None]]]:
    """``qkv train dates.yaml`` is short for ``qkv train --config dates.yaml``, of the task there.

    Raises:
        DataError: the recipe cannot be read.
        ConfigError: it names no task.
    """
    match list(arguments):
        case ["train", recipe, *rest] if not recipe.startswith("-"):
            return ["train", "--config", recipe, *rest], COMMANDS | {"train": _task(Path(recipe))}
    return list(arguments), COMMANDS


def _task(recipe: Path) -> Callable[..., None]:
    """The function that a recipe is for."""
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{recipe} cannot be read as a recipe: {error}") from error
    task = content.get("task") if isinstance(content, dict) else None
    if task not in RECIPES:
        raise ConfigError(
            f"{recipe} has task: {task}; expected one of {', '.join(RECIPES)} (is it a recipe?)"
        )
    return RECIPES[task]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: What follows ``qkv``; those of the process by default.

    Returns:
        0 when done, 2 where the command line or what it names is wrong, 128 and the signal's number
        where it was interrupted.
    """
    try:
        arguments, commands = _with_recipe(sys.argv[1:] if arguments is None else arguments)
        parser = _parser(commands)
        config = parser.parse_args(arguments)
        options = parser.instantiate(config)[config.command].as_dict()
        function = commands[config.command]
        if function in RECIPES.values():
            options = {name: options[name] for name in signature(function).parameters}
        function(*[options.pop(name) for name in _by_position(function)], **options)
    except Interrupted as stopped:
        print(f"qkv: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except QKVError as error:
        print(f"qkv: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0

"""Functions as commands: what a function takes is what may stand on its command line.

What it takes by position only has no name there either; a bool is a flag; `*texts` is any number of
arguments without a name.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace

from qkv.errors import ConfigError, DataError

Command = Callable[..., None]
HELP = (["-h"], ["--help"])
SHORT = {"-m": "--model", "-f": "--file"}


class OneLineParser(ArgumentParser):
    """Errors in one line, as all of ours are."""

    shown: str | None = None  # what to type before --help, where that is more than the command

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where the options are listed."""
        command = getattr(ex, "subcommand_parser", None) or self
        where = getattr(command, "shown", None) or command.prog.replace(" [options]", "")
        print(
            f"qkv: error: {' '.join(message.split())} ({where} --help lists all options)",
            file=sys.stderr,
        )
        self.exit(2)

    def parse_path(
        self,
        path: str | os.PathLike[str],
        ext_vars: dict[str, Any] | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        """Read a recipe as UTF-8; the library reads files in the encoding of the locale."""
        content = Path(path).read_text(encoding="utf-8")
        return self.parse_string(content, path, ext_vars, env, defaults, **kwargs)


def add_command(parser: ArgumentParser, function: Command) -> None:
    """Add a function's arguments; a bool is a flag, *texts are any number of arguments."""
    flags, many = flags_of(function), many_of(function)
    parser.add_function_arguments(
        function, as_positional=bool(by_position(function)), skip=set(flags)
    )
    about = {
        one.arg_name: one.description for one in docstring_parser.parse_from_object(function).params
    }
    for name in flags:
        parser.add_argument(
            *spellings(name), dest=name, action="store_true", help=about[name], default=False
        )
    if many:
        parser.add_argument(many, nargs="*", type=str, default=[], help=about[many])


def by_position(function: Command) -> list[str]:
    """The arguments that have no name on the command line."""
    return _of_kind(function, Parameter.POSITIONAL_ONLY)


def many_of(function: Command) -> str | None:
    """The argument, if there is one, that may be given any number of times, without a name."""
    return next(iter(_of_kind(function, Parameter.VAR_POSITIONAL)), None)


def _of_kind(function: Command, kind: Any) -> list[str]:
    return [one.name for one in signature(function).parameters.values() if one.kind is kind]


def flags_of(function: Command) -> list[str]:
    """The arguments that need no value: naming them says yes."""
    return [one.name for one in signature(function).parameters.values() if one.annotation is bool]


def spellings(flag: str) -> list[str]:
    """The options that say yes to a flag: words are joined by hyphens, or as in Python."""
    return list(dict.fromkeys((f"--{flag.replace('_', '-')}", f"--{flag}")))


def unnamed_last(arguments: Sequence[str], function: Command) -> list[str]:
    """Put arguments without a name behind the options, which argparse wants in one piece.

    Short options become long ones.
    """
    options: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    flags = flags_of(function)
    alone = {"-h", "--help", *(spelling for name in flags for spelling in spellings(name))}
    for one in rest:
        if one == "--":
            others.extend(rest)
        elif not one.startswith("-") or " " in one:
            others.append(one)
        else:
            options.append(SHORT.get(one, one))
            if one not in alone and "=" not in one:
                options.extend(islice(rest, 1))
    return [*options, "--", *others] if others else options


def task_of(recipe: Path, functions: Mapping[str, Command]) -> Command:
    """The function that a recipe is for, by the name of its task.

    Raises:
        DataError: the recipe cannot be read.
        ConfigError: it names no task, or is not made of fields.
    """
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{recipe} cannot be read as a recipe: {reason}") from error
    task = content.get("task") if isinstance(content, dict) else None
    if not isinstance(task, str) or task not in functions:
        raise ConfigError(
            f"{recipe} has task: {task}; expected one of {', '.join(functions)} (is it a recipe?)"
        )
    function = functions[task]
    for name, field in signature(function).parameters.items():
        if is_dataclass(field.annotation) and not isinstance(content.get(name, {}), dict):
            kind = type(content[name]).__name__
            raise ConfigError(
                f"{recipe}: {name} is a {kind}; expected its fields, each with a name"
            )
    return function

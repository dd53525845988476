"""`qkv train`: recipes are YAML files whose fields are the parameters of a task's function."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import import_module
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from qkv.errors import ConfigError, DataError
from qkv.tasks.options import whole_numbers

# What `task` in a recipe may be, and the function that trains by it.
RECIPES = {
    "answer": "qkv.tasks.answering.recipe:train_answerer",
    "classify": "qkv.tasks.classification.recipe:train_classifier",
    "dates": "qkv.tasks.translation.dates:train_dates",
    "generate": "qkv.tasks.generation.recipe:train_language_model",
    "recognize": "qkv.tasks.images.recipe:train_recognizer",
    "summarize": "qkv.tasks.summarization.recipe:train_summarizer",
    "translate": "qkv.tasks.translation.recipe:train_translator",
}
PRINT = "--print-config"


def train(recipe: str, /) -> None:
    """Train a model by a recipe: qkv train RECIPE --any.field VALUE.

    qkv train RECIPE --help lists the fields, and --print-config prints all of them with their
    values. Running the same command again continues a run that was stopped.

    Args:
        recipe: a YAML file, or the name of a shipped recipe, such as classify, pairs, qamr,
            multi30k, tinyshakespeare or digits (qkv train list names all); it comes first.
    """
    run_recipe(recipe, [])


def run_recipe(name: str, options: Sequence[str]) -> None:
    """Train by a recipe whose fields the options override.

    Args:
        name: a YAML file, or the name of a shipped recipe; "list" prints those.
        options: such as ["--training.steps", "100"].

    Raises:
        ConfigError: the recipe names no task, is not made of fields, or is not known.
        DataError: the recipe cannot be read.
        cyclopts.CycloptsError: a field is unknown or has a wrong value.
    """
    if name == "list":
        print("\n".join(shipped_recipes()))
        return
    path = find_recipe(name)
    task, function, fields = read_recipe(path)
    app = App(
        name=f"qkv train {name}",
        help_format="markdown",
        version_flags=(),
        # The recipe's values count, which --print-config shows, and not those of the classes.
        default_parameter=Parameter(negative_iterable=(), show_default=False),
        config=[Dict(with_defaults(function, fields), source=str(path)), whole_numbers],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.default(function)
    wanted = [option for option in options if option != PRINT]
    try:
        if len(wanted) == len(options):
            app(wanted, exit_on_error=False, print_error=False)
            return
        _, bound, _ = app.parse_args(wanted, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.command_chain = ("train", name)
        raise
    bound.apply_defaults()
    values = {"task": task, **{key: _plain(value) for key, value in bound.arguments.items()}}
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def find_recipe(name: str) -> Path:
    """Return the path of a file, or of the shipped recipe of this name.

    Raises:
        DataError: there is neither; near names are proposed.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = shipped_recipes()
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; shipped are {', '.join(shipped)}"
        raise DataError(f"{name!r} is neither a YAML file nor the name of a shipped recipe{meant}")
    return _folder() / f"{name}.yaml"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(files("qkv") / "recipes"))


def read_recipe(path: Path) -> tuple[str, Any, dict[str, Any]]:
    """Return a recipe's task, the function that trains by it, and the recipe's fields.

    Raises:
        ConfigError: the recipe names no task, or is not made of fields.
        DataError: it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as a recipe: {reason}") from error
    task = content.get("task") if isinstance(content, dict) else None
    if not isinstance(task, str) or task not in RECIPES:
        raise ConfigError(
            f"{path} has task: {task}; expected one of {', '.join(RECIPES)} (is it a recipe?)"
        )
    module, _, name = RECIPES[task].partition(":")
    function = getattr(import_module(module), name)
    for parameter, field in signature(function).parameters.items():
        value = content.get(parameter, {})
        if is_dataclass(field.annotation) and not isinstance(value, dict):
            raise ConfigError(
                f"{path}: {parameter} is a {type(value).__name__}; expected its fields, each with "
                "a name"
            )
    return task, function, {key: value for key, value in content.items() if key != "task"}


def with_defaults(function: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what the recipe leaves out, by the defaults of the task's function."""
    filled = {**fields}
    for name, parameter in signature(function).parameters.items():
        if is_dataclass(parameter.default):
            filled[name] = _merged(_plain(parameter.default), fields.get(name, {}))
    return filled


def _merged(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Put fields over defaults, also inside fields that have fields."""
    return {**defaults} | {
        name: _merged(defaults[name], value)
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        else value
        for name, value in fields.items()
    }


def _plain(value: Any) -> Any:
    """Turn a dataclass and what is in it into what YAML writes."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return json.loads(json.dumps(value, default=str))

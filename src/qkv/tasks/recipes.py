"""`qkv train`: recipes are YAML files whose fields are those of a task's recipe class."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from qkv.errors import ConfigError, DataError
from qkv.tasks.options import whole_numbers
from qkv.tasks.task import PAGES, find_task

PRINT = "--print-config"
ALTERNATIVES = (("steps", "epochs"), ("batch_size", "max_tokens"))  # of the training settings


def train(recipe: str, /) -> None:
    """Train a model by a recipe: qkv train RECIPE --any.field VALUE.

    qkv train RECIPE --help lists the fields, and --print-config prints all of them with their
    values. Running the same command again continues a run that was stopped.

    Args:
        recipe: a YAML file, or the name of a shipped recipe, such as classify, pairs, qamr,
            multi30k, tinyshakespeare or digits (qkv train list names all); it comes first, and
            qkv train RECIPE --help lists its fields.
    """
    run_recipe(recipe, [])


def plan(recipe: str, /) -> None:
    """Plan a training: its memory, what does not fit, and how long it takes.

    qkv plan RECIPE --help lists the options; all fields of qkv train RECIPE are among them.

    Args:
        recipe: a YAML file, or the name of a shipped recipe (qkv train list names all); it comes
            first, and qkv plan RECIPE --help lists the options.
    """
    run_recipe(recipe, [], verb="plan")


def run_recipe(
    name: str, options: Sequence[str], *, verb: Literal["train", "plan"] = "train"
) -> None:
    """Train by a recipe whose fields the options override, or plan it.

    Args:
        name: a YAML file, or the name of a shipped recipe; "list" prints those.
        options: such as ["--training.steps", "100"].
        verb: what to do.

    Raises:
        ConfigError: the recipe is unknown, names no task, or does not consist of fields.
        DataError: the recipe cannot be read.
        cyclopts.CycloptsError: a field is unknown or has a wrong value.
    """
    if name == "list":
        print("\n".join(shipped_recipes()))
        return
    path = find_recipe(name)
    task, kind, content = read_recipe(path)
    content = overridden(kind, content, options)
    app = App(
        name=f"qkv {verb} {name}",
        help_format="markdown",
        version_flags=(),
        # The defaults are the recipe's, which --print-config shows, not those of the classes.
        default_parameter=Parameter(negative_iterable=(), show_default=False),
        config=[Dict(with_defaults(kind, content), source=str(path)), whole_numbers],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.default(_command(task, kind) if verb == "train" else _planning(task, kind))
    wanted = [option for option in options if option != PRINT]
    try:
        if len(wanted) == len(options):
            app(wanted, exit_on_error=False, print_error=False)
            return
        _, bound, _ = app.parse_args(wanted, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.command_chain = (verb, name)
        raise
    values = {"task": task, **_plain(bound.arguments["recipe"])}
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


def _command(task: str, kind: type) -> Callable[..., None]:
    def command(*, recipe: Any) -> None:
        from qkv.tasks.train import train

        train(find_task(task), recipe)

    command.__doc__ = (kind.__doc__ or "").partition("\n")[0]
    command.__annotations__ = {"recipe": Annotated[kind, Parameter(name="*")], "return": None}
    return command


def _planning(task: str, kind: type) -> Callable[..., None]:
    from qkv.tasks.means import Means
    from qkv.tasks.plan import plan

    def command(*, means: Any, recipe: Any) -> None:
        plan(find_task(task), recipe, means)

    command.__doc__ = "Plan a training: its memory, what does not fit, and how long it takes."
    command.__annotations__ = {
        "means": Annotated[Means, Parameter(name="*", show_default=True)],
        "recipe": Annotated[kind, Parameter(name="*")],
        "return": None,
    }
    command.__kwdefaults__ = {"means": Means()}
    return command


def find_recipe(name: str) -> Path:
    """Return the path of a file, or of the shipped recipe of this name.

    Raises:
        DataError: there is neither; a similar name is proposed.
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


def read_recipe(path: Path) -> tuple[str, type, dict[str, Any]]:
    """Return a recipe's task, the class of its fields, and the fields in the file.

    Raises:
        ConfigError: the recipe names no task, or does not consist of fields.
        DataError: it cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as a recipe: {reason}") from error
    task = content.get("task") if isinstance(content, dict) else None
    if not isinstance(task, str) or task not in PAGES:
        raise ConfigError(
            f"{path} has task: {task}; expected one of {', '.join(PAGES)} (is it a recipe?)"
        )
    kind = find_task(task).recipe
    if kind is None:
        raise ConfigError(f"{path} has task: {task}, which cannot be trained; expected another")
    for name, hint in get_type_hints(kind).items():
        value = content.get(name, {})
        if is_dataclass(hint) and not isinstance(value, dict):
            raise ConfigError(
                f"{path}: {name} is a {type(value).__name__}; expected fields with names"
            )
    return task, kind, {key: value for key, value in content.items() if key != "task"}


def with_defaults(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in fields that the recipe omits from its sections with the defaults of its class."""
    filled = {**content}
    for field in fields(kind):
        made = field.default if field.default_factory is MISSING else field.default_factory()
        if is_dataclass(made):
            filled[field.name] = _merged(_plain(made), content.get(field.name, {}))
    training = content.get("training", {})
    for pair in ALTERNATIVES:  # what the recipe sets replaces the other's default
        for one, other in (pair, pair[::-1]):
            known = other in filled.get("training", {})
            if known and training.get(one) is not None and other not in training:
                filled["training"][other] = None
    return filled


def overridden(kind: Any, content: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Drop the recipe fields that command-line options replace with other fields.

    `--training.steps` replaces epochs, and so on; `--base` replaces the sizes of a new model, and
    `--finetuning.train` the settings of other kinds of fine-tuning.
    """
    names = {option.partition("=")[0].removeprefix("--").replace("-", "_") for option in options}
    kept = {**content}
    if "base" in names:
        kept = {name: value for name, value in kept.items() if name not in kind.sizes}
    if "finetuning.train" in names and isinstance(kept.get("finetuning"), dict):
        kept["finetuning"] = {
            name: value
            for name, value in kept["finetuning"].items()
            if name not in ("lora", "n_layers", "unfreeze_every")
        }
    for pair in ALTERNATIVES:
        for one, other in (pair, pair[::-1]):
            chosen = f"training.{one}" in names and f"training.{other}" not in names
            if chosen and hasattr(getattr(kind, "training", None), other):
                kept["training"] = {**kept.get("training", {}), other: None}
    return kept


def _merged(defaults: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Merge fields into defaults, recursively."""
    return {**defaults} | {
        name: _merged(defaults[name], value)
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        else value
        for name, value in content.items()
    }


def _plain(value: Any) -> Any:
    """Convert a dataclass, recursively, into values that YAML can write."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return json.loads(json.dumps(value, default=str))

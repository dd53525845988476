"""The command ``qkv``: each subcommand is a function, its options are the function's arguments."""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Literal

import torch

from qkv.checkpoints.overview import (
    FORMATS,
    list_architectures,
    list_families,
    list_fields,
    list_refused,
)
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.errors import ConfigError, Interrupted, QKVError, TrainingError
from qkv.json_fields import quoted
from qkv.tasks import arguments as command_line
from qkv.tasks.answering.command import answer
from qkv.tasks.answering.recipe import train_answerer
from qkv.tasks.classification.command import classify
from qkv.tasks.classification.recipe import train_classifier
from qkv.tasks.console import show_table
from qkv.tasks.conversion import checkpoint_files, convert_model, read_model
from qkv.tasks.evaluate_command import evaluate
from qkv.tasks.generation.command import generate
from qkv.tasks.generation.recipe import train_language_model
from qkv.tasks.images.command import recognize
from qkv.tasks.images.recipe import train_recognizer
from qkv.tasks.inspection import describe_model, inspect_model, size
from qkv.tasks.streams import complain, flush_output, prepare_streams
from qkv.tasks.summarization.command import summarize
from qkv.tasks.summarization.recipe import train_summarizer
from qkv.tasks.translation.command import translate
from qkv.tasks.translation.dates import train_dates
from qkv.tasks.translation.recipe import train_translator
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
    show_table("installed", [{"what": what, "value": value} for what, value in facts.items()])


def models(*, family: str | None = None) -> None:
    """List the families that load and save, the models of the zoo, and other formats that are read.

    Args:
        family: a model_type such as bert: what is implemented of it, and what is refused.
    """
    if family is None:
        show_table("families", list_families(FAMILIES.values()))
        show_table("zoo", list_zoo())
        show_table("formats that qkv convert reads as well", FORMATS)
        return
    found = family_of(family)
    show_table("architectures of config.json", list_architectures(found))
    show_table("fields of config.json", list_fields(found))
    show_table("refused unless", list_refused(found))


def convert(
    source: str,
    folder: Path,
    /,
    *,
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None,
    allow_download: bool = False,
) -> None:
    """Write a model in the Hugging Face layout: config.json, model.safetensors, tokenizer.

    Args:
        source: a checkpoint's folder, a name of the zoo, an id of the Hugging Face Hub, or a file
            of llama2.c (.bin) or CTranslate2 (model.bin).
        folder: new, empty, or a checkpoint to replace; anything else is left as it is.
        dtype: of the weights; that of the source unless given.
        allow_download: ask the Hub for a base that a file of the source names.
    """
    loaded = convert_model(
        source,
        folder,
        dtype=getattr(torch, dtype) if dtype else None,
        allow_download=allow_download,
    )
    show_table("read", describe_model(loaded))
    files = checkpoint_files(folder)
    show_table(
        "written", [{"file": str(file), "size": size(file.stat().st_size)} for file in files]
    )


def inspect(model: str, /, *, allow_download: bool = False) -> None:
    """Show what a model consists of: blocks, attention, parameters by part, memory by dtype.

    Args:
        model: a checkpoint's folder, a name of the zoo, an id of the Hugging Face Hub, or a file of
            llama2.c (.bin) or CTranslate2 (model.bin).
        allow_download: ask the Hub for a base that a file of the model names.
    """
    for title, rows in inspect_model(read_model(model, allow_download=allow_download)).items():
        show_table(title, rows)


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


def train(recipe: Path, /) -> None:
    """Train a model as a recipe says: qkv train RECIPE.yaml --any.field VALUE.

    Which fields there are depends on the recipe's task: qkv train RECIPE.yaml --help. The same
    command again goes on where a run was stopped.

    Args:
        recipe: in YAML; it comes first.
    """
    raise ConfigError(f"{recipe} was not read as a recipe")  # its task's function stands here


COMMANDS: dict[str, Callable[..., None]] = {
    "info": info,
    "models": models,
    "inspect": inspect,
    "convert": convert,
    "train": train,
    "evaluate": evaluate,
    "translate": translate,
    "summarize": summarize,
    "answer": answer,
    "classify": classify,
    "generate": generate,
    "recognize": recognize,
}

# What `task` in a recipe may say.
RECIPES: dict[str, Callable[..., None]] = {
    "answer": train_answerer,
    "classify": train_classifier,
    "dates": train_dates,
    "generate": train_language_model,
    "recognize": train_recognizer,
    "summarize": train_summarizer,
    "translate": train_translator,
}


def _parser(commands: Mapping[str, Callable[..., None]]) -> command_line.OneLineParser:
    parser = command_line.OneLineParser(
        prog="qkv",
        description="Attention and Transformers in PyTorch.",
        version=importlib.metadata.version("qkv"),
    )
    subcommands = parser.add_subcommands(dest="command")
    for name, function in commands.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        command = command_line.OneLineParser(description=summary)
        add = _add_recipe if function in RECIPES.values() else command_line.add_command
        add(command, function)
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _add_recipe(parser: command_line.OneLineParser, function: Callable[..., None]) -> None:
    """Add a task's arguments, and those that say where more of them are written."""
    parser.shown = "qkv train RECIPE.yaml"
    parser.add_function_arguments(function)
    parser.add_argument("--config", action="config", help="a recipe, in YAML")
    parser.add_argument("--task", help="of the recipe", choices=tuple(RECIPES))


def _read_command(
    arguments: Sequence[str],
) -> tuple[list[str], Mapping[str, Callable[..., None]]]:
    """The arguments as the parser wants them, and the commands that there are.

    ``qkv train dates.yaml`` is short for ``qkv train --config dates.yaml``, of the task there.

    Raises:
        DataError: the recipe cannot be read.
        ConfigError: it names no task, or does not come first.
    """
    match list(arguments):
        case ["train", recipe, *rest] if not recipe.startswith("-"):
            return ["train", "--config", recipe, *rest], COMMANDS | {
                "train": command_line.task_of(Path(recipe), RECIPES)
            }
        case ["train", *rest] if COMMANDS["train"] is train and rest[:1] not in command_line.HELP:
            raise ConfigError("the recipe comes first, as in qkv train recipes/classify.yaml")
        case [command, *rest] if command in COMMANDS and command_line.many_of(COMMANDS[command]):
            return [command, *command_line.unnamed_last(rest, COMMANDS[command])], COMMANDS
    return list(arguments), COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: What follows ``qkv``; those of the process by default.

    Returns:
        0 when done, 2 where the command line or what it names is wrong, 1 where the work failed
        (a full disk, a loss that is no number), 128 and the signal's number where it was
        interrupted.
    """
    try:
        prepare_streams()
        try:
            _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            flush_output()
    except Interrupted as stopped:
        complain(str(stopped))
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # such as head, which has read enough
        return 128 + 13
    except OSError as error:
        complain(f"error: {error}")
        return 1
    except UnicodeEncodeError as error:  # in an ASCII locale, of a path
        complain(
            f"error: {quoted(error.object)} cannot be written in {error.encoding}, the encoding of "
            "this system's names; expected another name, or another locale, such as C.UTF-8"
        )
        return 2
    except QKVError as error:
        complain(f"error: {error}")
        return 1 if isinstance(error, TrainingError) else 2
    return 0


def _run(arguments: Sequence[str]) -> None:
    arguments, commands = _read_command(arguments)
    parser = _parser(commands)
    config = parser.parse_args(arguments)
    options = parser.instantiate(config)[config.command].as_dict()
    function = commands[config.command]
    if function in RECIPES.values():
        options = {name: options[name] for name in signature(function).parameters}
    given = [options.pop(name) for name in command_line.by_position(function)]
    if many := command_line.many_of(function):
        given += options.pop(many) or []
    function(*given, **options)

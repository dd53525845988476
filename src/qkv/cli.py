"""The command ``qkv``: each subcommand is a function, and its parameters are the options.

Commands are imported when they run, so that ``qkv --help`` needs no torch.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from qkv.errors import ConfigError, Interrupted, QKVError, TrainingError
from qkv.json_fields import quoted
from qkv.tasks.options import whole_numbers
from qkv.tasks.streams import complain, flush_output, prepare_streams
from qkv.tasks.task import PAGES, commands

# The commands that do not belong to a task. Each summary is the first line of its function's
# docstring; a test compares them.
COMMANDS = {
    "info": (
        "qkv.tasks.overview:info",
        "Show the versions, the devices and the extras of this installation.",
    ),
    "models": (
        "qkv.tasks.overview:models",
        "List shipped models, families and file formats, or show one model's card.",
    ),
    "inspect": (
        "qkv.tasks.overview:inspect",
        "Show a model's blocks, attention, parameters by part, and memory by dtype.",
    ),
    "convert": (
        "qkv.tasks.overview:convert",
        "Write a model in the Hugging Face layout, or for an engine that runs it.",
    ),
    "train": (
        "qkv.tasks.recipes:train",
        "Train a model by a recipe: qkv train RECIPE --any.field VALUE.",
    ),
    "plan": (
        "qkv.tasks.recipes:plan",
        "Plan a training: its memory, what does not fit, and how long it takes.",
    ),
    "evaluate": ("qkv.tasks.commands:evaluate", "Score a model on data with known answers."),
    "merge": (
        "qkv.tasks.shards:merge",
        "Join the parts that a command with --shard wrote, in the order of the rows.",
    ),
    "explore": (
        "qkv.explorer.command:explore",
        "Show what a model computes for an input: attention, its arithmetic, layers, single heads.",
    ),
    "serve": (
        "qkv.serve.command:serve",
        "Serve models over HTTP, to OpenAI's clients and to any other.",
    ),
    "exercise": (
        "qkv.tutorial.exercises.command:exercise",
        "Solve the tutorial's exercises: qkv exercise list, start, check.",
    ),
}


def make_app(command: str = "") -> App:
    """Build the command line; of the tasks, only `command` is imported."""
    app = App(
        name="qkv",
        help="Attention and Transformers in PyTorch.",
        help_format="markdown",
        version=version("qkv"),
        default_parameter=Parameter(negative=()),
        config=[whole_numbers],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    tasks = {name: (f"qkv.tasks.commands:{name}", PAGES[name].summary) for name in commands()}
    for name, (function, summary) in {**COMMANDS, **tasks}.items():
        if name == command and name in tasks:
            from qkv.tasks.commands import command_of

            app.command(command_of(name), name=name)  # with all its options
        else:
            app.command(function, name=name, help=summary)
    app.register_install_completion_command()
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: arguments after ``qkv``; those of the process by default.

    Returns:
        0 on success; 2 if the command line or an input is wrong; 1 if the work failed, such as on a
        full disk or a loss of NaN; 128 plus the number of the signal that interrupted it.
    """
    try:
        prepare_streams()
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            flush_output()
    except Interrupted as stopped:
        complain(str(stopped))
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, such as head
        return 128 + 13
    except CycloptsError as error:
        complain(f"error: {_one_line(error)}")
        return 2
    except OSError as error:
        complain(f"error: {error}")
        return 1
    except UnicodeEncodeError as error:  # from a path, in an ASCII locale
        complain(
            f"error: {quoted(error.object)} cannot be written in {error.encoding}, the encoding of "
            "file names here; expected another name, or another locale, such as C.UTF-8"
        )
        return 2
    except QKVError as error:
        complain(f"error: {error}")
        return 1 if isinstance(error, TrainingError) else 2


def _run(arguments: list[str]) -> int:
    app = make_app(*arguments[:1])
    if arguments[:1] in (["train"], ["plan"]) and arguments[1:2] not in (["-h"], ["--help"]):
        from qkv.tasks.recipes import run_recipe

        verb = "train" if arguments[0] == "train" else "plan"
        if arguments[1:] == [] or arguments[1].startswith("-"):
            raise ConfigError(f"the recipe comes first, as in qkv {verb} classify")
        run_recipe(arguments[1], arguments[2:], verb=verb)
    elif not arguments:
        app.help_print()
        return 2
    else:
        app(arguments, exit_on_error=False, print_error=False)
    return 0


def _one_line(error: CycloptsError) -> str:
    """Describe what is wrong with a command line, and name the command that lists its options."""
    message = " ".join(str(error).split())
    command = " ".join(("qkv", *(error.command_chain or ())))
    if isinstance(error, UnknownOptionError):
        message += " A text that begins with a hyphen goes after --."
    return f"{message} ({command} --help lists all options)"

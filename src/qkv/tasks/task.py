"""The interface of a task, and the registry of all tasks.

Nothing here imports torch, so `qkv --help` stays fast.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from qkv.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from qkv.inference.optimize import Choice
    from qkv.tasks.commands import Predict
    from qkv.tasks.pipeline import Pipeline
    from qkv.tasks.pretrained import Loaded
    from qkv.tasks.train import Recipe

Example = TypeVar("Example")
Scores = TypeVar("Scores")
Tables = dict[str, list[dict[str, str]]]
Halves = tuple[Sequence[Example], Sequence[Example]]


class Page(NamedTuple):
    """The module of a task, and the summary of its command.

    Args:
        module: module with the constant `TASK`.
        summary: help text of the command; "" for a task that only has a recipe.
    """

    module: str
    summary: str


# The only registry: commands, recipes, `qkv evaluate` and `qkv.task` follow from it.
PAGES = {
    "translate": Page(
        "qkv.tasks.translation", "Translate texts from arguments, a file, or standard input."
    ),
    "summarize": Page(
        "qkv.tasks.summarization", "Summarize texts from arguments, a file, or standard input."
    ),
    "answer": Page(
        "qkv.tasks.answering",
        "Answer questions with words of a passage: qkv answer --context PASSAGE QUESTION.",
    ),
    "classify": Page(
        "qkv.tasks.classification", "Classify texts from arguments, a file, or standard input."
    ),
    "tag": Page("qkv.tasks.tagging", "Find names and other entities in texts, word by word."),
    "generate": Page(
        "qkv.tasks.generation", "Continue prompts from arguments, a file, or standard input."
    ),
    "chat": Page("qkv.tasks.chat", "Chat with a language model, or answer messages from a file."),
    "recognize": Page("qkv.tasks.images", "Classify images from files and folders."),
    "embed": Page(
        "qkv.tasks.embedding", "Embed texts from arguments, a file, or standard input as vectors."
    ),
    "search": Page(
        "qkv.tasks.search", "Find the lines of a file by meaning: qkv search --file docs.txt QUERY."
    ),
    "dates": Page("qkv.tasks.dates", ""),
}


def _no_other_files(source: str, problems: list[str] | None) -> None:
    """Return None: examples come only from tables and named sets."""


def _as_it_is(**fields: str) -> Any:
    """Return the fields of a row, for a task without examples."""
    return fields


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Example, Scores]):
    """A task: its data, its pipeline, and its command.

    Args:
        name: name of the command, and of `task` in a recipe.
        default: shipped model that is used unless another is named; "" if there is none.
        untrained: shipped model that is used for classes given by labels, if the task has them.
        methods: shipped model of each method, if the task has several; "" if it needs none.
        pipeline: makes predictions and scores.
        predict: options and inputs of the command; None for a task that only has a recipe.
        columns: default column of each role in a table; None for a role that is optional.
        recipe: trains; its fields are those of a recipe's YAML file. None for a task that is
            neither trained nor scored, such as embedding.
        example: makes an example from a row's fields, by role.
        tables: scores as tables.
        summary: scores as one line.
        read: reads a source that is not a table, such as a folder of images, and returns None for
            any other source; problems of skipped examples are appended to its second argument, or
            raised if it is None.
        group: key of an example; examples with the same key share a split.
        labels: class of an example, if a held-out split needs the same share of each class.
        hold_out: holds out a fraction of the examples, if neither groups nor classes fit.
        content: an example as JSON values, for the checksum of the data.
    """

    name: str
    default: str
    untrained: str = ""
    methods: Mapping[str, str] = field(default_factory=dict[str, str])
    pipeline: "type[Pipeline[Any, Any, Scores]]"
    predict: "type[Predict[Any]] | None"
    columns: Mapping[str, str | None]
    recipe: "type[Recipe[Any]] | None" = None
    example: Callable[..., Example] = _as_it_is
    tables: Callable[[Scores], Tables] = lambda scores: {}
    summary: Callable[[Scores], str] = str
    read: Callable[[str, list[str] | None], Sequence[Example] | None] = _no_other_files
    group: Callable[[Example], str] = str
    labels: Callable[[Example], str] | None = None
    hold_out: Callable[[Sequence[Example], float], Halves[Example]] | None = None
    content: Callable[[Example], Any] = lambda example: example

    def shipped(self, settings: Mapping[str, Any]) -> str:
        """Return the shipped model that these settings of the pipeline need."""
        if settings.get("labels"):
            return self.untrained
        return self.methods.get(settings.get("method") or "", self.default)


def find_task(name: str) -> Task[Any, Any]:
    """Return a task by its name.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in PAGES:
        raise ConfigError(f"no task {name!r}; expected one of {', '.join(commands())}")
    return import_module(PAGES[name].module).TASK


def commands() -> list[str]:
    """Return the names of the tasks that have a command."""
    return [name for name, page in PAGES.items() if page.summary]


def task(
    name: str,
    model: "Loaded | str | os.PathLike[str] | None" = None,
    *,
    device: "torch.device | str | None" = None,
    dtype: "Choice | None" = None,
    allow_download: bool = False,
    **settings: Any,
) -> "Pipeline[Any, Any, Any]":
    """Return a function of one input or a list of inputs, such as a translator.

    Args:
        name: a command of `commands()`, such as "translate", "classify" or "embed".
        model: a model returned by `qkv.load`, or a path or name; None: the task's shipped model.
        device: device of the model, if it is loaded here.
        dtype: dtype of the stored weights, for speed; see `qkv.optimize`. None: plain PyTorch.
        allow_download: whether to look on the Hub for a base model that the model's files name.
        settings: keyword arguments of the task's `Pipeline.of`, such as
            labels=["billing", "praise"], which classifies without training.

    Raises:
        ConfigError: there is no such task, or the model is of another kind.
        DataError: there is no such model.
    """
    from qkv.tasks.pretrained import Loaded

    page = find_task(name)
    if isinstance(model, Loaded):
        return page.pipeline.of(model, **settings)
    return page.pipeline.load(
        page.shipped(settings) if model is None else model,
        device=device,
        dtype=dtype,
        allow_download=allow_download,
        **settings,
    )


def task_of(model: str) -> str:
    """Return the name of the task that a model was trained for, according to its config.json.

    Raises:
        ConfigError: the model fits no task.
        DataError: there is no such model.
    """
    from qkv.checkpoints.building import named_architecture
    from qkv.checkpoints.registry import family_of
    from qkv.tasks.pipeline import recorded
    from qkv.tasks.pretrained import read_config

    raw = read_config(model)
    if (name := recorded(raw).get("task")) in PAGES:
        return name
    family = family_of(raw.get("model_type"))
    kind = family.architecture(named_architecture(raw)).model
    of_images = hasattr(family.config, "n_channels")
    for name in commands():
        pipeline = find_task(name).pipeline
        if issubclass(kind, pipeline.kinds) and pipeline.of_images == of_images:
            return name
    raise ConfigError(
        f"{model} is a {kind.__name__}, which fits none of the tasks: {', '.join(commands())}"
    )

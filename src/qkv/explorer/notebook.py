"""The explorer in a notebook: of a model and an input, or of attention weights alone."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from numpy.typing import ArrayLike

from qkv.errors import ConfigError
from qkv.explorer.kernel import in_notebook
from qkv.explorer.record import Record
from qkv.explorer.running import Runner
from qkv.explorer.static import Shown, StaticView
from qkv.explorer.view import NEW_TOKENS
from qkv.explorer.views import VIEWS
from qkv.explorer.weights import record_of_weights
from qkv.json_fields import shown
from qkv.tasks.pipeline import Pipeline, recorded
from qkv.tasks.pretrained import Loaded
from qkv.tasks.streams import complain
from qkv.tasks.task import PAGES, find_task, task_of


def explore(
    model: Any,
    text: Any,
    second: str | None = None,
    *,
    context: str | None = None,
    new_tokens: int = NEW_TOKENS,
    effects: bool = False,
    layer: int | str = -1,
    head: int = 0,
    query: int | None = None,
    name: str | None = None,
) -> Shown:
    """Show what a model computes for an input: attention, its arithmetic, predictions, layers.

    In a notebook this is a widget, in which other inputs can be typed and heads switched off.
    Elsewhere, or without anywidget, it is a figure. Both have `save`, which writes a page.

        explore("sentiment-small", "Not bad at all.")
        explore(qkv.task("translate"), "I have never seen such a beautiful house.")
        explore("answerer-small", "Who wrote it?", context="It was written by Ada Lovelace.")

    Args:
        model: name of a shipped model, folder, id of the Hub, pipeline (see `qkv.task`), or a model
            returned by `qkv.load`.
        text: the text, question or prompt; for a model of images, an image or its file.
        second: the second text of a pair.
        context: the passage of a question.
        new_tokens: maximum number of tokens that a language model adds to a prompt.
        effects: whether to measure the effect of each head at once; the widget has a button for it.
        layer: attention module in focus, by its name or by its number in the order of computation.
        head: head in focus.
        query: position of the query in focus; None: the one that makes the prediction.
        name: name of the model in titles.

    Raises:
        ConfigError: the explorer has no view of such a model, or there is no such layer or head.
        DataError: there is no such model, or the input does not fit it.
    """
    pipeline, task, known = pipeline_of(model)
    inputs: dict[str, Any] = {"text": text}
    if task == "recognize":  # the widget shows the name, and never looks one up
        known_as = os.path.basename(text) if isinstance(text, str | os.PathLike) else "image"
        inputs = {"text": known_as, "picture": text}
    for role, given, fits in (
        ("second", second, ("classify", "embed")),
        ("context", context, ("answer",)),
    ):
        if given is not None and task not in fits:
            raise ConfigError(f"{role} = {shown(given)} with a model of the task {task}")
        inputs |= {} if given is None else {role: given}
    if task in ("generate", "chat"):
        inputs["new_tokens"] = str(new_tokens)
    runner = Runner(pipeline, task, known if name is None else name, inputs)
    return _view(runner.first(effects=effects).record, layer, head, query, runner)


def explore_weights(
    weights: ArrayLike | Mapping[str, ArrayLike],
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    layer: int | str = -1,
    head: int = 0,
    query: int | None = None,
    name: str = "",
    text: str = "",
    output: str = "",
) -> Shown:
    """Show attention weights of any origin in the explorer, as `explore` does.

        explore_weights(weights, ["the", "cat"])                    # (2, 2), or (heads, 2, 2)
        explore_weights({"layer 1": first, "layer 2": second}, written, read)

    Args:
        weights: weights of one module, (queries, keys), (heads, queries, keys) or (1, heads,
            queries, keys), or of several by name, such as `record_attention` yields.
        queries: label of each query.
        keys: label of each key; None: queries and keys are from one sequence.
        layer: module in focus, by its name or its number.
        head: head in focus.
        query: position of the query in focus; None: the first one.
        name: name of the model in titles.
        text: the input, for the title.
        output: the output, for the title.

    Raises:
        ShapeError: the numbers of weights and labels differ.
        DataError: a weight is not between 0 and 1, or there are no weights.
        ConfigError: there is no such layer or head.
    """
    record = record_of_weights(weights, queries, keys, name=name, text=text, output=output)
    return _view(record, layer, head, query, None)


def pipeline_of(model: Any) -> tuple[Any, str, str]:
    """Return the pipeline of a model, its task, and a name.

    Raises:
        ConfigError: the explorer has no view of such a model.
        DataError: there is no such model.
    """
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        task = task_of(path)
        _check_view(task, path)
        return find_task(task).pipeline.load(path), task, os.path.basename(path) or path
    if isinstance(model, Loaded):
        task = _task_of_loaded(model)
        _check_view(task, f"a {type(model.model).__name__}")
        return find_task(task).pipeline.of(model), task, type(model.model).__name__
    if isinstance(model, Pipeline):
        for task in VIEWS:
            if isinstance(model, find_task(task).pipeline):
                return model, task, type(model.model).__name__
    raise ConfigError(
        f"a {type(model).__name__}; expected the name of a model, what qkv.load or qkv.task "
        f"returned, of one of the tasks {', '.join(VIEWS)} (explore_weights shows any attention "
        "weights)"
    )


def _task_of_loaded(loaded: Loaded) -> str:
    if (name := recorded(loaded.config).get("task")) in PAGES:
        return str(name)
    of_images = loaded.preprocessor is not None
    for task in PAGES:
        pipeline = find_task(task).pipeline
        if isinstance(loaded.model, pipeline.kinds) and pipeline.of_images == of_images:
            return task
    raise ConfigError(f"a {type(loaded.model).__name__} fits none of the tasks {', '.join(PAGES)}")


def _check_view(task: str, what: str) -> None:
    if task not in VIEWS:
        raise ConfigError(
            f"the explorer has no view of {what}, a model of the task {task}; expected one of "
            f"{', '.join(VIEWS)}"
        )


def _view(
    record: Record, layer: int | str, head: int, query: int | None, runner: Runner | None
) -> Shown:
    """Return the widget of a record; without widgets, print why, and return a figure."""
    layers = record.header["attention"]
    names = [one["name"] for one in layers]
    known = layer in names if isinstance(layer, str) else -len(names) <= layer < len(names)
    if not known:
        raise ConfigError(f"layer = {layer!r}; expected one of {len(names)}: {', '.join(names)}")
    index = names.index(layer) if isinstance(layer, str) else layer % len(names)
    if not 0 <= head < layers[index]["heads"]:
        raise ConfigError(
            f"head = {head} of {names[index]}; expected 0 to {layers[index]['heads'] - 1}"
        )
    if not in_notebook():
        complain("a figure, since this is not a notebook; its save('page.html') writes a page")
    elif find_spec("anywidget") is None:
        complain('a figure, since anywidget is not installed: pip install "qkv[tutorial]"')
    else:
        from qkv.explorer.widget import ExplorerWidget

        view = "" if (layer, head, query) == (-1, 0, None) else f"a={index}&h={head}"
        view += "" if query is None else f"&q={query}"
        return ExplorerWidget(record, (index, head), view=view, runner=runner)
    return StaticView(record, (index, head))

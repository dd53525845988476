"""The command `qkv explore`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.files import write_atomically
from qkv.tasks.inputs import check_texts, exists, pick_device
from qkv.tasks.options import AllowDownload, Device, Model
from qkv.tasks.passages import read_passage
from qkv.tasks.streams import as_text, complain
from qkv.tasks.task import find_task, task_of
from qkv.zoo.catalog import ZOO


def explore(
    *inputs: Annotated[str, Parameter(help="the text, question, prompt, or image file to look at")],
    model: Model = None,
    context: str | None = None,
    second: str | None = None,
    save: Path | None = None,
    record: Path | None = None,
    new_tokens: int = 24,
    quick: Annotated[bool, Parameter(show_default=False)] = False,
    port: int = 8400,
    host: str = "127.0.0.1",
    browser: Annotated[bool, Parameter(show_default=False)] = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Show what a model computes for an input: attention, its arithmetic, layers, single heads.

    Without an input, a page with the shipped models, or with --model, is served on this computer.
    The page and the record load nothing from the network.

    Args:
        context: the passage of a question, or a file that contains it.
        second: the second text, for models of text pairs and of embeddings.
        save: write a page that opens with a double click.
        record: write the numbers alone, as a safetensors file.
        new_tokens: maximum number of tokens that a language model adds to a prompt.
        quick: leave out the effect of each head, which takes one pass per attention module.
        port: port of the page; 0 takes a free one.
        host: address of the page; with an address other than this computer's own, everyone on the
            network can reach it.
        browser: open the page in the browser.
    """
    if not inputs:
        for name, path in (("save", save), ("record", record)):
            if path is not None:
                raise ConfigError(f"--{name} {path} without an input; expected a text or an image")
        _serve(model, host, port, browser, device, allow_download)
        return
    text, *others = inputs
    if others:
        raise ConfigError(f"{len(inputs)} inputs; expected one (quote a text of several words)")
    if model is None:
        raise ConfigError(f"no model; expected --model MODEL, such as one of {', '.join(ZOO)}")
    if save is None and record is None:
        raise ConfigError("nowhere to write; expected --save PAGE.html or --record FILE, or both")
    task = task_of(model)
    fields = read_fields(task, text, context, second, new_tokens)
    for target in filter(None, (save, record)):
        if task == "recognize" and exists(target) and target.samefile(text):
            raise ConfigError(f"{target} is the image; expected another file")
    if save is not None and save.suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(f"--save {save}; expected a page, whose name ends in .html")
    made = _look(task, model, fields, device, allow_download, quick)
    if record is not None:
        made.record.save(record)
        complain(f"a record of {record.stat().st_size / 1e6:,.1f} MB written to {record}")
    if save is not None:
        from qkv.explorer.saved import page_with

        write_atomically(save, page_with(made.record))
        complain(f"a page of {save.stat().st_size / 1e6:,.1f} MB written to {save}")


def read_fields(
    task: str, text: str, context: str | None, second: str | None, new_tokens: int
) -> dict[str, str]:
    """Return an input by role, as the task's own command reads it.

    Raises:
        ConfigError: an option does not fit the task, or a text looks like a name.
        DataError: an image is missing.
    """
    if context is not None and task != "answer":
        raise ConfigError(
            f"--context with a model of the task {task}; expected a model that answers"
        )
    if second is not None and task not in ("classify", "embed"):
        raise ConfigError(f"--second with a model of the task {task}; expected a model of pairs")
    if new_tokens < 1:
        raise ConfigError(f"new_tokens = {new_tokens}; expected at least 1")
    if task == "recognize":
        if not exists(Path(text)):
            raise DataError(f"{text}: there is no such file")
        return {"text": text}
    check_texts([text])
    fields = {"text": as_text(text)}
    if task == "answer":
        if context is None:
            raise ConfigError("a question without a passage; expected --context TEXT or FILE")
        fields["context"] = read_passage(context)
    if second is not None:
        fields["second"] = as_text(second)
    if task in ("generate", "chat"):
        fields["new_tokens"] = str(new_tokens)
    return fields


def _look(
    task: str, model: str, fields: dict[str, str], device: str, allow_download: bool, quick: bool
) -> Any:
    from qkv.explorer.heads import longest
    from qkv.explorer.look import look, make_view
    from qkv.explorer.view import LONG

    pipeline = find_task(task).pipeline.load(
        model, device=pick_device(device), allow_download=allow_download
    )
    view = make_view(pipeline, task, fields)
    long = longest(view) > LONG
    if long and not quick:
        complain(f"longer than {LONG} positions: the effect of each head is left out")
    return look(pipeline.model, view, name=model, effects=not (quick or long))


def _serve(
    model: str | None, host: str, port: int, browser: bool, device: str, allow_download: bool
) -> None:
    try:
        from qkv.explorer.server import serve
    except ImportError as error:
        raise MissingDependencyError(
            "the explorer's server needs Starlette and uvicorn, which are not installed: pip "
            'install "qkv[serve]" (qkv explore INPUT --save page.html needs neither)'
        ) from error
    from qkv.explorer.engine import Engine

    chosen = pick_device(device)

    def load(task: str, name: str) -> Any:
        pipeline = find_task(task).pipeline
        return pipeline.load(name, device=chosen, allow_download=allow_download)

    serve(Engine([] if model is None else [model], load), host, port, browser=browser)

"""The routes /v1/tasks/NAME: what the command NAME prints with --json, byte for byte."""

import asyncio
import dataclasses
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema, create_model
from starlette.requests import Request
from starlette.responses import Response

from qkv.errors import DataError
from qkv.serve.answers import made, unless_gone
from qkv.serve.engine import Call
from qkv.serve.errors import documented
from qkv.serve.models import Models, Served
from qkv.serve.schema import SEEDS, TEXTS, Strict, Text
from qkv.tasks.commands import Predict
from qkv.tasks.inputs import Item
from qkv.tasks.outputs import fields_of, more_fields, results_of
from qkv.tasks.pretrained import Loaded
from qkv.tasks.task import PAGES, Task, commands, find_task
from qkv.web.content import decode_picture

LINES = "application/x-ndjson"  # of a list of inputs; a single one is JSON
INPUTS = 256  # of a request
MOST = {"beam": 16, "n_best": 16, "n": 16, "seed": SEEDS - 1}  # of an option
MOST_OF_OTHERS = 4_096
OF_COMMAND = {one.name for one in dataclasses.fields(Predict)}  # set by the server


class Picture(Strict):
    """An image.

    Args:
        data: content of an image file, in base64.
        name: name of the image in the answer.
    """

    data: str
    name: Annotated[str, Field(max_length=255)] = ""


def routes(models: Models) -> APIRouter:
    """Return the routes of all tasks that have a command.

    Args:
        models: the models that are served.
    """
    router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
    for name in commands():
        router.add_api_route(
            f"/{name}",
            endpoint(models, name),
            methods=["POST"],
            name=name,
            summary=PAGES[name].summary.partition(":")[0].rstrip(".") + ".",
            response_class=Response,
            responses={
                200: {"content": {"application/json": {}, LINES: {}}},
                **documented(404),
            },
        )
    return router


def endpoint(models: Models, name: str) -> Any:
    """Return the function behind the route of a task."""
    task = find_task(name)
    kind: Any = task.predict
    allowed = options_of(kind)

    async def run(request: Request, body: Any) -> Response:
        given = body.model_dump(exclude_none=True, include=set(allowed))
        options: Predict[Any] = build(kind, given)
        options.check()
        served = models.for_task(name, body.model, options.chosen)
        inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        items = await asyncio.to_thread(read_inputs, options, inputs)
        loaded = await asyncio.wrap_future(served.engine.start())
        call = make_call(task, options, served, loaded, items, key=(name, repr(options)))
        results = await unless_gone(request, made(served.engine, call))
        lines = as_lines(results, more_fields(served.shipped))
        media = LINES if isinstance(body.inputs, list) else "application/json"
        return Response("".join(f"{line}\n" for line in lines), media_type=media)

    run.__annotations__["body"] = body_of(name, kind, allowed, list(models.by_name))
    return run


def make_call(
    task: Task[Any, Any],
    options: Predict[Any],
    served: Served,
    loaded: Loaded,
    items: Sequence[Item],
    key: Any,
) -> Call:
    """Return the call of a task; it shares a batch with others of the same options."""

    def results(items: Sequence[Item]) -> Sequence[Any]:
        pipeline = served.pipeline(task.name, loaded, **options.chosen)
        return results_of(items, lambda one: options.noted(pipeline, one, served.shipped))

    return Call(None if options.apart else key, items, results)


def as_lines(results: Sequence[Any], more: dict[str, Any]) -> list[str]:
    """Return a line of JSON for each result or error.

    Raises:
        DataError: all of them are errors.
    """
    if all(isinstance(one, Exception) for one in results):
        raise results[0]
    return [json.dumps(fields_of(one, more), ensure_ascii=False) for one in results]


def read_inputs(options: Predict[Any], inputs: Sequence[Any]) -> list[Item]:
    """Return the inputs of a request; images are decoded.

    Raises:
        DataError: an input is wrong, and it is the only one.
    """
    opened = [read_picture(one) if isinstance(one, Picture) else one for one in inputs]
    items = options.requested(opened)
    problems = [item.problem for item in items if item.problem]
    if len(problems) == len(items):
        raise DataError(problems[0])
    return items


def read_picture(one: Picture) -> Any:
    """Return an open image with its name."""
    image = decode_picture(one.data)
    image.filename = one.name
    return image


def options_of(kind: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return the type and default of each option that a request may have, by name.

    Nested dataclasses are flattened, as on the command line. Files, and options that load the
    model, are excluded.
    """
    hints, of_server = get_type_hints(kind), OF_COMMAND.union(getattr(kind, "loads", ()))
    found = dict[str, tuple[Any, Any]]()
    for one in dataclasses.fields(kind):
        hint = hints[one.name]
        if one.name in of_server or hint is Path or Path in get_args(hint):
            continue
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            found |= options_of(hint)
        else:
            found[one.name] = bounded(one.name, hint), one.default
    return found


def bounded(name: str, hint: Any) -> Any:
    """Return the type of an option with limits, so that numbers are neither huge nor infinite."""
    if hint is int:
        least = 0 if name == "seed" else 1
        return Annotated[int, Field(ge=least, le=MOST.get(name, MOST_OF_OTHERS))]
    if hint is float:
        return Annotated[float, Field(allow_inf_nan=False)]
    if hint is str:
        return Text
    if get_origin(hint) is list:
        (each,) = get_args(hint)
        return Annotated[list[bounded(name, each)], Field(max_length=TEXTS)]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(bounded(name, one) for one in get_args(hint))]  # noqa: UP007
    return hint


def body_of(
    name: str, kind: type[Any], allowed: dict[str, tuple[Any, Any]], names: list[str]
) -> type[Any]:
    """Return the body of a task's requests."""
    one: Any = Picture if name == "recognize" else Text
    several = Annotated[list[one], Field(min_length=1, max_length=INPUTS)]
    listed = WithJsonSchema({"anyOf": [{"type": "string", "enum": names}, {"type": "null"}]})
    fields: dict[str, Any] = {
        "inputs": (Union[one, several], ...),  # noqa: UP007
        "model": (Annotated[str | None, listed], None),
        **allowed,
    }
    about = f"Inputs and options of qkv {name}."
    return create_model(f"{kind.__name__}Request", __base__=Strict, __doc__=about, **fields)


def build(kind: type[Any], given: dict[str, Any]) -> Any:
    """Return the options of a command; options of a nested dataclass are grouped again.

    Raises:
        ConfigError: an option is wrong.
    """
    hints, own = get_type_hints(kind), dict[str, Any]()
    for one in dataclasses.fields(kind):
        hint = hints[one.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            nested = {field.name for field in dataclasses.fields(hint)} & set(given)
            own[one.name] = hint(**{name: given[name] for name in nested})
        elif one.name in given:
            own[one.name] = given[one.name]
    return kind(**own)

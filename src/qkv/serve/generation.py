"""The routes /v1/completions and /v1/chat/completions."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qkv.data.chat import Message
from qkv.errors import ConfigError
from qkv.serve.answers import Answers, Shape, unless_gone
from qkv.serve.errors import documented
from qkv.serve.metrics import Metrics
from qkv.serve.models import GENERATES, Models, NoModelError, Served
from qkv.serve.schema import (
    SEEDS,
    ChatRequest,
    CompletionRequest,
    Generating,
    Said,
    with_models,
)
from qkv.tasks.generation import SamplingOptions
from qkv.tasks.generator import Generator
from qkv.tasks.pretrained import Loaded
from qkv.tasks.requests import Plan, chat_plan, plan

STREAM = "text/event-stream"


class Completions:
    """The format of completions."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, row: int, text: str, reason: str) -> dict[str, Any]:
        """Return a complete answer."""
        return {"index": row, "text": text, "logprobs": None, "finish_reason": reason}

    def piece(self, row: int, text: str, reason: str | None, *, first: bool) -> dict[str, Any]:
        """Return a piece of an answer."""
        return {"index": row, "text": text, "logprobs": None, "finish_reason": reason}


class Replies:
    """The format of chat replies."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, row: int, text: str, reason: str) -> dict[str, Any]:
        """Return a complete answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": row, "message": message, "logprobs": None, "finish_reason": reason}

    def piece(self, row: int, text: str, reason: str | None, *, first: bool) -> dict[str, Any]:
        """Return a piece of an answer."""
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if reason is None:
            delta["content"] = text
        return {"index": row, "delta": delta, "logprobs": None, "finish_reason": reason}


class Stream(StreamingResponse):
    """A stream of answers, which are cancelled as soon as the client stops reading."""

    def __init__(self, answers: Answers, *, with_usage: bool):
        super().__init__(answers.stream(with_usage=with_usage), media_type=STREAM)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


def routes(models: Models, metrics: Metrics) -> APIRouter:
    """Return the routes of generated text.

    Args:
        models: the models that are served.
        metrics: counts tokens.
    """
    router = APIRouter(prefix="/v1", tags=["generation"])

    async def completions(request: Request, body: Any) -> Response:
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt

        def make(generator: Generator, **options: Any) -> list[Plan]:
            return [plan(generator, one, **options) for one in prompts]

        return await generate(request, body, Completions(), make, body.max_tokens)

    async def chat(request: Request, body: Any) -> Response:
        messages = [as_message(one) for one in body.messages]
        if body.max_completion_tokens is not None and body.max_tokens is not None:
            raise ConfigError("max_tokens beside max_completion_tokens; expected one of them")

        def make(generator: Generator, **options: Any) -> list[Plan]:
            talker = models.find(body.model).pipeline("chat", generator.loaded)
            strings = options.pop("stop_strings") or ()
            return [chat_plan(talker, messages, stop_strings=strings, **options)]

        most = body.max_completion_tokens or body.max_tokens
        return await generate(request, body, Replies(), make, most)

    async def generate(
        request: Request,
        body: Generating,
        shape: Shape,
        make: Callable[..., list[Plan]],
        max_length: int | None,
    ) -> Response:
        served = generative(models, body.model)
        loaded = await asyncio.wrap_future(served.engine.start())
        plans = await asyncio.to_thread(planned, served, loaded, body, make, max_length)
        answers = Answers(served.engine, plans, served.name, shape)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        if body.stream:
            return metrics.counting(served.name, answers, Stream(answers, with_usage=with_usage))
        whole = await unless_gone(request, answers.whole())
        metrics.count_tokens(served.name, answers.usage)
        return JSONResponse(whole)

    names = models.of_tasks(*GENERATES)
    for path, endpoint, kind in (
        ("/completions", completions, CompletionRequest),
        ("/chat/completions", chat, ChatRequest),
    ):
        endpoint.__annotations__["body"] = with_models(kind, names)
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=(kind.__doc__ or "").partition("\n")[0],
            response_class=JSONResponse,
            responses={200: {"content": {STREAM: {}}}, **documented(404)},
        )
    return router


def planned(
    served: Served,
    loaded: Loaded,
    body: Generating,
    make: Callable[..., list[Plan]],
    max_length: int | None,
) -> list[Plan]:
    """Return the plans of a request, whose sampling is checked and completed.

    Raises:
        QKVError: a prompt or an option is wrong.
    """
    generator = served.pipeline("generate", loaded)
    chosen = SamplingOptions(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
    )
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    return make(
        generator,
        max_length=max_length,
        sampling=chosen.over(generator),
        seed=secrets.randbelow(SEEDS) if body.seed is None else body.seed,
        stop_strings=stop,
    )


def generative(models: Models, name: str) -> Served:
    """Return a language model.

    Raises:
        NoModelError: no model of this name is served, or it generates no text.
    """
    served = models.find(name)
    if served.task not in GENERATES:
        expected = ", ".join(models.of_tasks(*GENERATES)) or "a server with a language model"
        raise NoModelError(
            f"{name} is a model of the task {served.task}; expected a language model: {expected} "
            f"(POST /v1/tasks/{served.task} serves this one)"
        )
    return served


def as_message(said: Said) -> Message:
    """Return a message in the format of chat templates."""
    return {"role": "system" if said.role == "developer" else said.role, "content": said.text}

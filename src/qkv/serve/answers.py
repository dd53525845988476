"""Generated answers, as one object or as server-sent events."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from qkv.errors import BusyError, QKVError
from qkv.generation.request import Request
from qkv.generation.streaming import Pieces
from qkv.serve.engine import Call, Engine
from qkv.serve.errors import FailedError, describe, error_body
from qkv.tasks.requests import Plan

LONGEST_WAIT = 60.0  # seconds in the queue of calls
R = TypeVar("R")
Event = tuple[int, int | BaseException | None]  # row, and token, error or end


class Heard(Request):
    """A request whose tokens are passed to an event loop."""

    row: int
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[Event]"

    def tell(self, token: int | BaseException | None) -> None:
        """Pass on a token, or the end, from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self.loop.call_soon_threadsafe(self.events.put_nowait, (self.row, token))


class Shape(Protocol):
    """The format of a route's answers."""

    prefix: str
    whole: str
    chunk: str

    def choice(self, row: int, text: str, reason: str) -> dict[str, Any]:
        """Return a complete answer."""
        ...

    def piece(self, row: int, text: str, reason: str | None, *, first: bool) -> dict[str, Any]:
        """Return a piece of an answer."""
        ...


class Answers:
    """The answers to the prompts of one HTTP request; creating them starts the generation.

    Args:
        engine: a language model.
        plans: plan for each prompt.
        model: name of the model.
        shape: format of the answers.

    Raises:
        BusyError: too many requests are waiting.
    """

    def __init__(self, engine: Engine, plans: Sequence[Plan], model: str, shape: Shape):
        self._plans, self._shape = plans, shape
        self._events = asyncio.Queue[Event]()
        self._requests = list[Heard]()
        self._head = {
            "id": f"{shape.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        try:
            for row, plan in enumerate(plans):
                one = Heard(plan.prompt, plan.stop, plan.max_length, plan.choose, plan.ends)
                one.row, one.loop = row, asyncio.get_running_loop()
                one.events = self._events
                engine.generate(one)
                self._requests.append(one)
        except BaseException:
            self.cancel()
            raise

    @property
    def usage(self) -> dict[str, int]:
        """The number of tokens so far."""
        read = sum(len(plan.prompt) for plan in self._plans)
        written = sum(len(one.answer) for one in self._requests)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def cancel(self) -> None:
        """Stop generating: the rows leave the batch, and free their memory."""
        for one in self._requests:
            one.cancel()

    async def whole(self) -> dict[str, Any]:
        """Wait for all answers, and return them as one object."""
        try:
            async for _ in self._heard():
                pass
        finally:
            self.cancel()
        choices = [
            self._shape.choice(row, plan.text(one.answer), self._reason(row))
            for row, (plan, one) in enumerate(zip(self._plans, self._requests, strict=True))
        ]
        return {
            **self._head,
            "object": self._shape.whole,
            "choices": choices,
            "usage": self.usage,
        }

    async def stream(self, *, with_usage: bool) -> AsyncIterator[str]:
        """Yield the events of all answers, the last of which is [DONE]; an error ends them."""
        texts = [Pieces(plan.decode, plan.stop_strings) for plan in self._plans]
        usage = {"usage": None} if with_usage else {}
        try:
            for row in range(len(texts)):
                yield self._chunk([self._shape.piece(row, "", None, first=True)], **usage)
            async for row, token in self._heard():
                text = texts[row].rest() if token is None else texts[row].add(token)
                if text:
                    yield self._chunk([self._shape.piece(row, text, None, first=False)], **usage)
                if token is None:
                    end = self._shape.piece(row, "", self._reason(row), first=False)
                    yield self._chunk([end], **usage)
            if with_usage:
                yield self._chunk([], usage=self.usage)
            yield "data: [DONE]\n\n"
        except Exception as error:
            status, message, code = describe(error)
            yield _event(error_body(status, message, code=code))
        finally:
            self.cancel()

    async def _heard(self) -> AsyncIterator[tuple[int, int | None]]:
        """Yield the tokens of all answers, and None at the end of each."""
        unfinished = len(self._requests)
        while unfinished:
            row, token = await self._events.get()
            if isinstance(token, BaseException):
                raise token
            unfinished -= token is None
            yield row, token

    def _reason(self, row: int) -> str:
        answer, plan = self._requests[row].answer, self._plans[row]
        return "stop" if plan.ended(answer) else "length"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        return _event(self._head | {"object": self._shape.chunk, "choices": choices} | more)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def made(engine: Engine, call: Call) -> Sequence[Any]:
    """Queue a call and return its results.

    Raises:
        BusyError: too many calls are waiting, or this one has waited for `LONGEST_WAIT`.
    """
    future = engine.call(call)
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait({waiting}, timeout=LONGEST_WAIT)
        if not waiting.done() and future.cancel():  # not if it is being made
            raise BusyError(
                f"{engine.name} has been busy for {LONGEST_WAIT:.0f} s: try again later"
            )
        return await waiting
    finally:
        waiting.cancel()


async def unless_gone(request: HTTPRequest, work: Awaitable[R]) -> R:
    """Return the result of an awaitable, which is cancelled once the client has disconnected.

    Raises:
        ClientDisconnect: the client has disconnected.
        FailedError: the model failed.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    except (QKVError, ClientDisconnect):
        raise
    except Exception as error:
        raise FailedError from error
    finally:
        left.cancel()
        task.cancel()

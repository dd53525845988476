"""The explorer's server: the same page as a saved one, with models behind it.

It answers only requests whose Host header names it, reads at most 10 MB of a body, gives other
sites no access (no CORS, JSON bodies only), and never uses a name from a request as a path.
"""

import asyncio
import contextlib
import json
import webbrowser
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from safetensors.numpy import save as save_tensors
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qkv.errors import BusyError, QKVError
from qkv.explorer.engine import Engine, Stopped
from qkv.explorer.heads import one_head
from qkv.explorer.parts import as_array
from qkv.explorer.saved import empty_page, page_with
from qkv.tasks.streams import complain
from qkv.web.content import read_body
from qkv.web.guards import HEADERS as WEB_HEADERS
from qkv.web.guards import LOCAL, guards
from qkv.web.running import address_of, listen, make_server

HEADERS = WEB_HEADERS | {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


def make_app(engine: Engine, hosts: Sequence[str] = LOCAL) -> Starlette:
    """Build the application.

    Args:
        engine: the models.
        hosts: names by which the server may be addressed.
    """

    async def page(_request: Request) -> Response:
        return Response(empty_page(), media_type="text/html")

    async def models(_request: Request) -> Response:
        return JSONResponse({"models": engine.menu()})

    async def look(request: Request) -> Response:
        asked, heard = engine.read(await read_body(request)), Listener()
        events = heard.events(engine.submit(asked, heard))
        return StreamingResponse(events, media_type="text/event-stream")

    async def record(request: Request) -> Response:
        looked = engine.record(request.path_params["key"])
        if looked is None:
            return _error(404, "this record is not kept any more; run the input again")
        if request.url.path.endswith("/page"):
            made = await asyncio.to_thread(page_with, looked.record)
            return Response(made, media_type="text/html")
        return Response(looked.record.encode(), media_type="application/octet-stream")

    async def head(request: Request) -> Response:
        looked = engine.record(request.path_params["key"])
        if looked is None:
            return _error(404, "this record is not kept any more; run the input again")
        index, number = request.path_params["index"], request.path_params["head"]
        found = await asyncio.to_thread(one_head, looked.layers, index, number)
        arrays = {name: as_array(name, tensor) for name, tensor in found.items()}
        return Response(save_tensors(arrays), media_type="application/octet-stream")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    at = "/explorer/records/{key:str}"
    return Starlette(
        routes=[
            Route("/", page),
            Route("/explorer/models", models),
            Route("/explorer/look", look, methods=["POST"]),
            Route(at, record),
            Route(at + "/{index:int}/{head:int}", head),
            Route(at + "/page", record),
        ],
        middleware=guards(_error, hosts, HEADERS),
        exception_handlers={
            QKVError: _refuse,
            ClientDisconnect: _refuse,
            HTTPException: _refuse,
        },
        lifespan=lifespan,
    )


class Listener:
    """Receives the events of a request in the engine's thread, and passes them on."""

    def __init__(self) -> None:
        self._loop, self._gone = asyncio.get_running_loop(), False
        self._queue = asyncio.Queue[tuple[str, Any]]()

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        """Pass on an event.

        Raises:
            Stopped: the client has gone.
        """
        if self._gone:
            raise Stopped
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (event, data))

    async def events(self, future: Future[str]) -> AsyncIterator[str]:
        """Yield the events, the last of which is the record or an error."""
        done = asyncio.wrap_future(future)
        done.add_done_callback(lambda one: self._queue.put_nowait(("done", one)))
        done.add_done_callback(lambda one: one.cancelled() or one.exception())  # retrieved
        try:
            while True:
                event, data = await self._queue.get()
                if event == "done":
                    break
                yield _event(event, data)
            yield _event("record", {"id": data.result()})
        except QKVError as error:
            yield _event("error", {"error": str(error)})
        except Exception as error:  # the next request is answered all the same
            complain(f"error: {type(error).__name__}: {error}")
            yield _event("error", {"error": f"the model failed: {type(error).__name__}"})
        finally:
            self._gone = True


def _event(event: str, data: Mapping[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


async def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail)
    return _error(503 if isinstance(error, BusyError) else 400, str(error))


def serve(engine: Engine, host: str, port: int, *, browser: bool) -> None:
    """Serve the explorer until it is interrupted.

    Args:
        engine: the models.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        browser: whether to open the page in the browser.

    Raises:
        OSError: the port is taken.
    """
    with listen(host, port) as listening:
        address = address_of(listening)
        complain(f"the explorer is at {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)
        make_server(make_app(engine, (*LOCAL, host))).run(sockets=[listening])

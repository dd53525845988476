"""The application: all routes, their guards, and their error handlers.

It answers only requests whose Host header names it, reads at most 10 MB of a body, gives other
sites no access (no CORS), and never uses a name from a request as a path.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from qkv.serve import embeddings, generation, tasks
from qkv.serve.errors import HANDLERS, RETRY, documented, on_error, refuse
from qkv.serve.metrics import Counted, Metrics
from qkv.serve.models import Models, Served
from qkv.web.guards import LOCAL, guards

TEXT = "text/plain"
OPEN = ("/health",)  # without a key


class Key:
    """Middleware that rejects requests without the server's key."""

    def __init__(self, app: ASGIApp, key: str):
        self.app, self.wanted = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(sent, self.wanted):
                answer = refuse(401, "the key is missing or wrong; expected that of the server")
                answer.headers["WWW-Authenticate"] = "Bearer"
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def make_app(models: Models, hosts: Sequence[str] = LOCAL, key: str = "") -> FastAPI:
    """Build the application.

    Args:
        models: the models that are served.
        hosts: names by which the server may be addressed.
        key: key that requests must have; "" needs none.
    """
    metrics, begun = Metrics(models), int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        models.stop()
        models.join()

    app = FastAPI(
        title="qkv",
        version=version("qkv"),
        summary="Models behind the routes of OpenAI, and behind one route for each task.",
        docs_url=None,  # its page loads programs from another site
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={**HANDLERS, Exception: on_error},
        middleware=[
            Middleware(Counted, metrics=metrics),
            *guards(refuse, hosts),
            *([Middleware(Key, key=key)] if key else []),
        ],
    )

    @app.get("/v1/models", tags=["models"], summary="List the models.", responses=documented())
    async def list_models() -> dict[str, Any]:
        listed = [about(one, begun) for one in models.by_name.values()]
        return {"object": "list", "data": listed}

    @app.get(
        "/v1/models/{name}",
        tags=["models"],
        summary="Describe a model.",
        responses=documented(404),
    )
    async def one_model(name: str) -> dict[str, Any]:
        return about(models.find(name), begun)

    @app.get("/health", tags=["server"], summary="Tell whether all models can answer.")
    async def health() -> Response:
        sick = [one.name for one in models.by_name.values() if not one.engine.healthy]
        if sick:
            body = {"status": "failed", "models": sick}
            return JSONResponse(body, status_code=503, headers=RETRY)
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        tags=["server"],
        summary="Count requests and tokens, for Prometheus.",
        response_class=Response,
        responses={200: {"content": {TEXT: {}}}, **documented()},
    )
    async def counted() -> Response:
        return metrics.page()

    app.include_router(generation.routes(models, metrics))
    app.include_router(embeddings.routes(models, metrics))
    app.include_router(tasks.routes(models))
    return app


def about(served: Served, created: int) -> dict[str, Any]:
    """Return the entry of a model in the list of models."""
    shipped = served.shipped
    return {
        "id": served.name,
        "object": "model",
        "created": created,
        "owned_by": "qkv",
        "task": served.task,
        "about": shipped.about if shipped else "",
        "weak": shipped.weak if shipped else "",
    }

"""The route /v1/embeddings."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qkv.errors import DataError, LengthError
from qkv.serve.answers import made, unless_gone
from qkv.serve.engine import Call
from qkv.serve.errors import documented
from qkv.serve.metrics import Metrics
from qkv.serve.models import Models, NoModelError
from qkv.serve.schema import EmbeddingRequest, with_models
from qkv.tasks.embedding import Embedder, as_array

TASKS = ("embed",)


def routes(models: Models, metrics: Metrics) -> APIRouter:
    """Return the route of embeddings.

    Args:
        models: the models that are served.
        metrics: counts tokens.
    """
    router = APIRouter(prefix="/v1", tags=["embeddings"])

    async def embeddings(request: Request, body: Any) -> Response:
        texts = [body.input] if isinstance(body.input, str) else body.input
        served = models.find(body.model)
        if served.task not in TASKS:
            expected = ", ".join(models.of_tasks(*TASKS)) or "a server with an encoder"
            raise NoModelError(
                f"{body.model} is a model of the task {served.task}; expected a model that embeds: "
                f"{expected}"
            )
        loaded = await asyncio.wrap_future(served.engine.start())
        embedder: Embedder = served.pipeline("embed", loaded)
        if "" in (text.strip() for text in texts):
            raise DataError("a text of input is empty; expected texts")
        encoded = await asyncio.to_thread(embedder.encode, texts)
        if not body.truncate:
            check_lengths(encoded.lengths, embedder.max_length)
        n_tokens = sum(map(len, encoded.ids))

        def embed(rows: Sequence[Any]) -> Sequence[Any]:
            return list(as_array(embedder.embed(replace(encoded, ids=list(rows)))))

        call = Call("embed", encoded.ids, embed)
        vectors = await unless_gone(request, made(served.engine, call))
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        metrics.count_tokens(served.name, usage)
        in_base64 = body.encoding_format == "base64"

        def written() -> Response:
            data = [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": to_base64(row) if in_base64 else row.tolist(),
                }
                for i, row in enumerate(vectors)
            ]
            return JSONResponse(
                {"object": "list", "data": data, "model": served.name, "usage": usage}
            )

        return await asyncio.to_thread(written)  # a million numbers take a while

    embeddings.__annotations__["body"] = with_models(EmbeddingRequest, models.of_tasks(*TASKS))
    router.add_api_route(
        "/embeddings",
        embeddings,
        methods=["POST"],
        summary="Embed texts as unit vectors.",
        responses=documented(404),
        response_class=JSONResponse,
    )
    return router


def check_lengths(lengths: Sequence[int], most: int) -> None:
    """Raise LengthError if a text has more tokens than the model reads."""
    for i, length in enumerate(lengths):
        if length > most:
            raise LengthError(
                f"text {i} of input has {length:,} tokens; expected at most {most:,}, special "
                "tokens included, or truncate: true"
            )


def to_base64(vector: "np.ndarray") -> str:
    """Return a vector as base64 of float32 in little-endian order."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

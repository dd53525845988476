"""The server's metrics, for Prometheus."""

import time
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qkv.serve.answers import Answers
from qkv.serve.models import Models

SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300)
NO_ROUTE = "none"  # label of all paths without a route, whose number is unlimited


class Metrics:
    """Counters of requests and tokens, and gauges of waiting and running work.

    Args:
        models: the models that are served.
    """

    def __init__(self, models: Models):
        self._models, self.registry = models, CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter(
            "qkv_requests", "Requests by route and status.", ["route", "status"], **options
        )
        self._seconds = Histogram(
            "qkv_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            **options,
        )
        self._tokens = Counter(
            "qkv_tokens", "Tokens that were read and generated.", ["model", "kind"], **options
        )
        self.registry.register(self)

    def collect(self) -> Any:
        """Yield the gauges of waiting and running work, for Prometheus."""
        waiting = GaugeMetricFamily("qkv_waiting", "Requests that wait.", labels=["model"])
        running = GaugeMetricFamily("qkv_running", "Answers in the batch.", labels=["model"])
        for name, one in self._models.by_name.items():
            waiting.add_metric([name], one.engine.n_waiting)
            running.add_metric([name], one.engine.n_running)
        yield waiting
        yield running

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_tokens(self, model: str, usage: dict[str, int]) -> None:
        """Count the tokens of an answer."""
        self._tokens.labels(model, "prompt").inc(usage["prompt_tokens"])
        if written := usage.get("completion_tokens"):
            self._tokens.labels(model, "completion").inc(written)

    def counting(self, model: str, answers: Answers, response: StreamingResponse) -> Response:
        """Return a stream whose tokens are counted at its end."""
        body = response.body_iterator

        async def counted() -> AsyncIterator[Any]:
            try:
                async for part in body:
                    yield part
            finally:
                self.count_tokens(model, answers.usage)

        response.body_iterator = counted()
        return response

    def page(self) -> Response:
        """Return all metrics in the format of Prometheus."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class Counted:
    """Middleware that counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = 499, time.perf_counter()  # unless an answer begins, the client has left

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.metrics.count_request(route, status, time.perf_counter() - begun)

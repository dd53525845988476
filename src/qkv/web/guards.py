"""ASGI middlewares that limit the origin, the size and the duration of requests."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 10_000_000  # bytes
MOST_HELD = 200_000_000  # bytes of all bodies at the same time
MOST_DRAINED = 50_000_000  # bytes of a body that are read and dropped, so that the client reads why
MOST_INSIDE = 4_000  # requests at the same time
PATIENCE = 60.0  # seconds, for a part of a body, and for a client that reads slowly
LOCAL = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

Refuse = Callable[[int, str], Response]  # makes the answer for a status and a message


def guards(
    refuse: Refuse, hosts: Sequence[str], headers: Mapping[str, str] = HEADERS
) -> list[Middleware]:
    """Return the middlewares of a server, the outermost first.

    Args:
        refuse: makes an error answer.
        hosts: names by which the server may be addressed.
        headers: headers of every answer.
    """
    return [
        Middleware(WithHeaders, headers=headers),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(SameOrigin, refuse=refuse),
        Middleware(Bounded, refuse=refuse),
    ]


class WithHeaders:
    """Middleware that adds the headers that keep other sites out."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] = HEADERS):
        self.app = app
        self.more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.more]}
            await send(message)

        await self.app(scope, receive, send_more)


class SameOrigin:
    """Middleware that rejects requests from pages of another origin."""

    def __init__(self, app: ASGIApp, refuse: Refuse):
        self.app, self.refuse = app, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin, host = headers.get(b"origin"), headers.get(b"host", b"")
            if origin is not None and urlsplit(origin.decode("latin-1")).netloc.encode() != host:
                await self.refuse(403, "a request of another site")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Bounded:
    """Middleware that limits the memory and the time that clients use.

    A body that is larger than `LARGEST_BODY`, has a part that takes longer than `PATIENCE`, or
    makes all bodies together larger than `MOST_HELD`, raises an HTTPException where it is read. A
    client that does not read its answer is disconnected.
    """

    def __init__(self, app: ASGIApp, refuse: Refuse):
        self.app, self.refuse = app, refuse
        self._inside = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        n_read, complete, stuck = 0, False, False

        async def receive_part() -> Message:
            nonlocal complete
            try:
                async with asyncio.timeout(PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"no part of the body came in {PATIENCE:.0f} s") from None
            complete = not message.get("more_body", False)
            return message

        async def drain() -> None:
            """Drop the rest of a body: a client that still writes would not read the answer."""
            left = MOST_DRAINED
            while not complete and left > 0:
                left -= len((await receive_part()).get("body", b""))

        async def receive_bounded() -> Message:
            nonlocal n_read
            if complete:  # the only further message is the disconnect
                return await receive()
            message = await receive_part()
            part = len(message.get("body", b""))
            n_read += part
            self._held += part
            if n_read > LARGEST_BODY:
                await drain()
                raise HTTPException(413, f"the body has more than {LARGEST_BODY:,} bytes")
            if self._held > MOST_HELD:
                await drain()
                why = "too many large bodies: try again later"
                raise HTTPException(503, why, {"Retry-After": "1"})
            return message

        async def send_bounded(message: Message) -> None:
            nonlocal stuck
            try:
                async with asyncio.timeout(PATIENCE):
                    await send(message)
            except TimeoutError:
                stuck = True
                raise

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._inside >= MOST_INSIDE:
            message = f"{self._inside:,} requests are being answered: try again later"
            await self.refuse(503, message)(scope, receive, send)
            return
        self._inside += 1
        try:
            await self.app(scope, receive_bounded, send_bounded)
        except Exception:
            if not stuck:  # otherwise nobody reads the answer, whose connection ends here
                raise
        finally:
            self._inside -= 1
            self._held -= n_read

"""The socket that a server listens on, and its life until it is interrupted."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from qkv.errors import ConfigError

CONNECTIONS = 16_384  # open files of the process, if the system allows as many
LEAVE = 5  # seconds that answers may take to end after an interruption


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        ConfigError: there is no such port.
        OSError: the port is taken, or the address is not one of this computer.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port = {port}; expected 0 to 65535")
    _allow_connections()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise OSError(
            f"port {port} of {host} is not free: {error.strerror}; try --port 0"
        ) from error


def _allow_connections() -> None:
    """Raise the usual limit of 1,024 connections to `CONNECTIONS`, or what the system allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows, or a system's own limit
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def address_of(listening: socket.socket) -> str:
    """Return the address by which a browser reaches a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """A server that tells the application to stop before it waits for its answers."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]):
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        self._stopping()
        await super().shutdown(sockets)

    def run(self, sockets: "list[socket.socket] | None" = None) -> None:
        super().run(sockets)
        if self._captured_signals:  # asyncio may have swallowed the interruption
            raise KeyboardInterrupt


def make_server(
    app: ASGIApp, stopping: Callable[[], None] = lambda: None, **options: Any
) -> uvicorn.Server:
    """Return a server of an application.

    Args:
        app: the application.
        stopping: called once, before the server waits for pending answers.
        options: further settings of uvicorn.
    """
    settings: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": LEAVE,
    }
    return _Server(uvicorn.Config(app, **settings | options), stopping)

"""The command `qkv serve`."""

import ipaddress
import os
from typing import Annotated

from cyclopts import Parameter

from qkv.errors import ConfigError, MissingDependencyError
from qkv.tasks.inputs import pick_device
from qkv.tasks.options import AllowDownload, Device, Dtype
from qkv.tasks.streams import complain

KEY = "QKV_API_KEY"


def serve(
    *models: Annotated[
        str,
        Parameter(
            help="folders that qkv train made, shipped models, or ids of the Hub; without any, "
            "those that the commands use without --model"
        ),
    ],
    host: str = "127.0.0.1",
    port: int = 8000,
    name: list[str] | None = None,
    rows: int = 16,
    waiting: int = 256,
    device: Device = "auto",
    dtype: Dtype = None,
    allow_download: AllowDownload = False,
) -> None:
    """Serve models over HTTP, to OpenAI's clients and to any other.

    /v1/models, /v1/completions, /v1/chat/completions and /v1/embeddings are those of OpenAI.
    /v1/tasks/translate, and so on, return what the command prints with --json. /health and /metrics
    are for monitoring.

    Args:
        host: address to listen on; addresses that other computers can reach need a key in the
            environment variable QKV_API_KEY, which clients must send.
        port: port to listen on; 0 takes a free one.
        name: additional host name of the server, such as the name of this computer; may be
            repeated.
        rows: number of texts that a language model generates at the same time.
        waiting: number of requests that may wait for a model; further requests are told to try
            again later.
    """
    key = os.environ.get(KEY, "")
    check(host, name or [], key)
    if rows < 1 or waiting < 1:
        raise ConfigError(f"rows = {rows}, waiting = {waiting}; expected at least 1 each")
    try:
        from qkv.serve.app import make_app
        from qkv.web.guards import LOCAL
        from qkv.web.running import address_of, listen, make_server
    except ImportError as error:
        raise MissingDependencyError(
            "the server needs FastAPI, uvicorn and prometheus-client, which are not installed: pip "
            'install "qkv[serve]"'
        ) from error
    from qkv.serve.models import read_models, shipped_models

    served = read_models(
        models or shipped_models(),
        device=pick_device(device),
        dtype=dtype,
        allow_download=allow_download,
        max_rows=rows,
        max_waiting=waiting,
    )
    with listen(host, port) as listening:
        if models:
            served.start()
        address = address_of(listening)
        for one in served.by_name.values():
            later = "" if models else ", loaded at its first request"
            complain(f"{one.name}: {one.task}{later}")
        complain(f"serving at {address}/v1 (Ctrl-C ends it)")
        app = make_app(served, (*LOCAL, bracketed(host), *(name or ())), key)
        make_server(app, served.stop).run(sockets=[listening])


def check(host: str, names: list[str], key: str) -> None:
    """Check that a server that others can reach has a key, and a name.

    Raises:
        ConfigError: it lacks one of them, or the host is not an address.
    """
    if host == "localhost":
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(f"--host {host}; expected an address, such as 127.0.0.1") from error
    if address.is_loopback:
        return
    if len(key) < 16 or not key.isascii():
        raise ConfigError(
            f"--host {host} is reached by others; expected a key of at least 16 characters in the "
            f"environment variable {KEY}, which their clients send"
        )
    if address.is_unspecified and not names:
        raise ConfigError(
            f"--host {host} is every address of this computer; expected --name NAME, by which "
            "clients address it ('*' for any)"
        )


def bracketed(host: str) -> str:
    """Return an address as it is written in a Host header."""
    return f"[{host}]" if ":" in host else host

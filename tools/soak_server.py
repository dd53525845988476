"""Send a server what clients send on a bad day, and count what is lost.

    python tools/soak_server.py --minutes 30

1,000 clients ask for texts and embeddings, whole and in pieces; some read slowly, some leave in the
middle, some send 10 MB or nonsense, and one of the models fails again and again. Each request must
have an answer: a status and a whole body, or a stream that ends with [DONE] or an error. At the end
nothing may wait or run, memory may not have grown, and Ctrl-C must end the server.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

WORDS = "Is it blue? It is red. Is it old? It is new, and so it was before. "
FAILS = 97  # the flaky model fails at every so many steps
HEAD = (
    "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
)
PATIENCE = 300.0  # seconds for an answer
# What a client does, and how often.
ACTIONS = {
    "whole": 20,
    "stream": 20,
    "slow": 15,
    "leave": 10,
    "flaky": 10,
    "flaky stream": 5,
    "embed": 10,
    "task": 5,
    "nonsense": 5,
    "large": 1,
    "too large": 1,
    "health": 3,
    "metrics": 1,
}
GOOD = {200, 503}  # of any action; 503 is an answer, too
ALSO = {
    "flaky": {500},
    "nonsense": {400, 404, 405},
    "large": {400},
    "too large": {413},
}


def serve() -> None:
    """Serve a tiny language model, one that fails, and MiniLM, until interrupted."""
    import torch

    from qkv.data.tokenizers import Tokenizer
    from qkv.models.llama import Llama, LlamaConfig
    from qkv.serve.app import make_app
    from qkv.serve.engine import Engine
    from qkv.serve.models import Models, Served, loader
    from qkv.tasks.pretrained import Loaded
    from qkv.web.running import listen, make_server

    torch.manual_seed(0)
    tokenizer = Tokenizer.train_bpe([WORDS] * 3, 293)
    sizes: dict[str, Any] = {"d_model": 24, "n_heads": 6, "d_ff": 29, "n_layers": 2}

    class Flaky(Llama):
        steps = 0

        def step(self, *arguments: Any) -> Any:
            Flaky.steps += 1
            if Flaky.steps % FAILS == 0:
                raise RuntimeError("this model fails")
            return super().step(*arguments)

    def language_model(kind: type[Llama]) -> Loaded:
        config = LlamaConfig(vocab_size=tokenizer.vocab_size, n_positions=512, **sizes)
        fields = {"eos_token_id": tokenizer.stop, "pad_token_id": tokenizer.pad}
        return Loaded(kind(config).eval(), tokenizer, config=fields)

    def served(name: str, task: str, load: Any) -> Served:
        return Served(name, name, task, Engine(name, load))

    models = Models(
        [
            served("tiny", "generate", lambda: language_model(Llama)),
            served("flaky", "generate", lambda: language_model(Flaky)),
            served("minilm", "embed", loader("all-MiniLM-L6-v2", "embed", None, None, False)),
        ]
    )
    models.start()
    with suppress(KeyboardInterrupt), listen("127.0.0.1", 0) as listening:
        print(listening.getsockname()[1], file=sys.stderr, flush=True)
        app = make_app(models)
        make_server(app, models.stop).run(sockets=[listening])


class Clients:
    """The clients of a server, and what became of their requests."""

    def __init__(self, port: int, end: float, seed: int):
        self.port, self.end, self.random = port, end, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.large = json.dumps({"model": "tiny", "prompt": "x" * 9_900_000}).encode()

    async def client(self) -> None:
        """Act until the end."""
        await asyncio.sleep(self.random.random() * 10)
        while time.monotonic() < self.end:
            [action] = self.random.choices(list(ACTIONS), list(ACTIONS.values()))
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await self.act(action)
                self.done[outcome] += 1
            except Exception as error:
                self.lost[f"{action}: {type(error).__name__} {error}"[:120]] += 1
            await asyncio.sleep(self.random.random() * 2)

    async def act(self, action: str) -> str:
        """Send a request, check its answer, and return what became of it."""
        method, path, body = self.request(action)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            length = f"Content-Length: {len(body)}\r\n\r\n"
            try:
                writer.write((HEAD.format(method, path) + length).encode() + body)
                await writer.drain()
            except (ConnectionResetError, BrokenPipeError):
                pass  # a refused body need not be read; the answer must be there
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split()[1])
            if status not in GOOD | ALSO.get(action, set()):
                raise ValueError(f"status {status}: {(await reader.read(300)).decode()}")
            if action == "leave" and status == 200:
                await reader.read(30)
                return "left in the middle"
            content = await self.read(reader, slowly=action == "slow")
            return check(action, status, head, content)
        finally:
            writer.close()

    def request(self, action: str) -> tuple[str, str, bytes]:
        """Return method, path and body."""
        if action in ("health", "metrics"):
            return "GET", f"/{action}", b""
        if action == "large":
            return "POST", "/v1/completions", self.large
        if action == "too large":
            return "POST", "/v1/completions", b"x" * 10_000_001
        if action == "nonsense":
            bodies = [b"{", b"\xff", b'{"model": "x", "prompt": "x"}', b'{"model": "tiny"}', b"[]"]
            return "POST", "/v1/completions", self.random.choice(bodies)
        if action in ("embed", "task"):
            texts = [WORDS * self.random.randint(1, 4) for _ in range(self.random.randint(1, 17))]
            if action == "task":
                body = {"model": "minilm", "inputs": texts[:3]}
                return "POST", "/v1/tasks/embed", json.dumps(body).encode()
            body = {"model": "minilm", "input": texts, "encoding_format": "base64"}
            return "POST", "/v1/embeddings", json.dumps(body).encode()
        body = {
            "model": "flaky" if "flaky" in action else "tiny",
            "prompt": [WORDS[: self.random.randint(0, 60)]] * self.random.randint(1, 3),
            "max_tokens": self.random.randint(1, 120),
            "temperature": self.random.choice([0, 0.8]),
            "stream": action in ("stream", "slow", "leave", "flaky stream"),
        }
        return "POST", "/v1/completions", json.dumps(body).encode()

    async def read(self, reader: asyncio.StreamReader, *, slowly: bool) -> bytes:
        """Read to the end."""
        content = b""
        while part := await reader.read(200 if slowly else 65_536):
            content += part
            if slowly:
                await asyncio.sleep(self.random.random() * 0.05)
        return content


def check(action: str, status: int, head: str, content: bytes) -> str:
    """Return what became of a request.

    Raises:
        ValueError: the answer is not whole.
    """
    if status == 503 and "retry-after" not in head.lower():
        raise ValueError("503 without Retry-After")
    if "text/event-stream" in head:
        if b"data: [DONE]" in content:
            return "streamed"
        if b'data: {"error"' in content and "flaky" in action:
            return "an error in a stream"
        raise ValueError(f"a stream that ends with {content[-80:]!r}")
    length = re.search(r"content-length: (\d+)", head.lower())
    if length is None or len(content) != int(length[1]):
        raise ValueError(f"{len(content)} bytes of {length and length[1]}")
    return f"status {status}" if action != "flaky" else f"status {status} of the flaky model"


async def watch(process: psutil.Process, clients: Clients, memory: list[float]) -> None:
    """Note the memory of the server, and report now and then."""
    begun = said = time.monotonic()
    while time.monotonic() < clients.end:
        await asyncio.sleep(2)
        memory.append(process.memory_info().rss / 1e6)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(
                f"{(said - begun) / 60:.0f} min: {sum(clients.done.values()):,} answers, "
                f"{sum(clients.lost.values())} lost, {memory[-1]:.0f} MB",
                flush=True,
            )


async def numbers(port: int) -> dict[str, float]:
    """Return the metrics of the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((HEAD.format("GET", "/metrics") + "\r\n").encode())
    page = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if name}


async def soak(port: int, process: psutil.Process, minutes: float, n: int, seed: int) -> bool:
    """Run the clients; return whether all is well."""
    clients, memory = Clients(port, time.monotonic() + 60 * minutes, seed), list[float]()
    await asyncio.gather(watch(process, clients, memory), *(clients.client() for _ in range(n)))
    await asyncio.sleep(3)
    left = {k: v for k, v in (await numbers(port)).items() if k.startswith(("qkv_w", "qkv_ru"))}
    quarter = len(memory) // 4
    early, late = (
        statistics.median(part) for part in (memory[quarter : 2 * quarter], memory[-quarter:])
    )
    for what, count in clients.done.most_common():
        print(f"{count:9,}  {what}")
    for what, count in clients.lost.most_common():
        print(f"{count:9,}  LOST {what}")
    print(f"memory: {early:.0f} MB in the second quarter, {late:.0f} MB in the last; {left}")
    return not clients.lost and not any(left.values()) and late < 1.1 * early + 20


def main() -> None:
    """Start a server, run the clients, and exit with 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(run(Path(folder, "log"), options))


def run(log: Path, options: argparse.Namespace) -> int:
    """Start the server, run the clients, end the server; return the exit status."""
    with log.open("w", encoding="utf-8") as errors:
        server = subprocess.Popen([sys.executable, __file__, "--serve"], stderr=errors)
    while not (found := re.match(r"(\d+)\n", log.read_text(encoding="utf-8"))):
        if server.poll() is not None:
            raise SystemExit(log.read_text(encoding="utf-8"))
        time.sleep(0.1)
    process = psutil.Process(server.pid)
    well = asyncio.run(soak(int(found[1]), process, options.minutes, options.clients, options.seed))
    server.send_signal(signal.SIGINT)
    status = server.wait(60)
    said = Counter(log.read_text(encoding="utf-8").splitlines()[1:])
    print(f"the server ended with status {status}; it said {said.most_common(3)}")
    return 0 if well and status == 0 else 1


if __name__ == "__main__":
    main()

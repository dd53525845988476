"""The server: 16 clients at once, one static batch, one request after another; and embeddings.

SmolLM2 continues 16 prompts greedily; the answers should be the same texts. The static batch is
one batch in a process of its own, without a server; so is the scheduler. Embeddings of 512
sentences: sentence-transformers, the same task in a process of its own, and the server, in bodies
of 128 texts with vectors in base64, as OpenAI's client asks for them. Every rival has all threads,
and they take turns.
"""

import http.client
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from _common import RESULTS, arguments, load, machine, provenance, publish, save
from _engines import _minilm_path, sentences
from rich.progress import track

from qkv.generation.decoding import GREEDY
from qkv.generation.request import Request
from qkv.generation.scheduler import Scheduler
from qkv.tasks.generator import Generator
from qkv.tasks.requests import plan
from qkv.tasks.task import task
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "serving.json"
MODEL, ENCODER = "smollm2", "all-MiniLM-L6-v2"
ROWS, TOKENS = 16, 96
BODY = 128  # texts of an HTTP request
NO_STOP = "\u241e"  # a stop string that never occurs, instead of that of the model's files
JSON = {"Content-Type": "application/json"}
STATIC = "one static batch of 16"
Answer = tuple[str, int]  # text, and number of tokens
AT_ONCE = "server, 16 at once"
ALONE = "server, one after another"
THEIRS = "sentence-transformers, encode"


def load_generator(dtype: str) -> Generator:
    chosen: Any = None if dtype == "none" else dtype
    return Generator.load(MODEL, dtype=chosen)


def choose_prompts() -> list[str]:
    """Return the beginnings of 16 sentences."""
    long = [one.split() for one in sentences() if len(one.split()) > 12]
    return [" ".join(words[:9]) for words in long[:ROWS]]


def static_batch(generator: Generator, prompts: list[str]) -> list[list[int]]:
    """Decode all prompts in one batch, with the rules of the model's files."""
    ids = [generator.begin(prompt)[0] for prompt in prompts]
    limits = generator.limits(ids[0], TOKENS)
    continuation = generator.continuation(GREEDY, generator.decoding)
    outputs = continuation.answers(ids, limits, [0] * len(ids))
    return [[token.id for token in output] for output in outputs]


def scheduled(generator: Generator, prompts: list[str]) -> list[list[int]]:
    """Decode all prompts by the scheduler, as the server does."""
    scheduler, requests = Scheduler(generator.model, max_rows=ROWS), []
    for prompt in prompts:
        one = plan(generator, prompt, max_length=TOKENS, sampling=GREEDY, stop_strings=[NO_STOP])
        request = Request(one.prompt, one.stop, one.max_length, one.choose, one.ends)
        requests.append(scheduler.submit(request))
    while scheduler.busy:
        scheduler.step()
    return [list(one) for one in requests]


def answers_of(
    run: Callable[[Generator, list[str]], list[list[int]]], dtype: str, prompts: list[str]
) -> Callable[[], list[Answer]]:
    generator = load_generator(dtype)
    decoders = [generator.decoder(prompt) for prompt in prompts]

    def answers() -> list[Answer]:
        rows = zip(decoders, run(generator, prompts), strict=True)
        return [(decode(ids), len(ids)) for decode, ids in rows]

    return answers


def embed_ours(dtype: str, texts: list[str]) -> Callable[[], Any]:
    chosen: Any = None if dtype == "none" else dtype
    embedder: Any = task("embed", dtype=chosen)
    return lambda: embedder(texts)


def embed_theirs(_dtype: str, texts: list[str]) -> Callable[[], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(_minilm_path(), device="cpu")
    return lambda: model.encode(texts, batch_size=32, normalize_embeddings=True)


RIVALS: dict[str, Callable[[str, list[str]], Callable[[], Any]]] = {
    STATIC: lambda dtype, prompts: answers_of(static_batch, dtype, prompts),
    "scheduler, without HTTP": lambda dtype, prompts: answers_of(scheduled, dtype, prompts),
    THEIRS: embed_theirs,
    "qkv, in a process": embed_ours,
}


def rival(connection: Connection, name: str, dtype: str, texts: list[str], threads: int) -> None:
    """Load a rival, and run it as often as asked; answer with seconds and the output."""
    torch.set_num_threads(threads)
    run = RIVALS[name](dtype, texts)
    run()  # compiles, fills caches
    connection.send(None)
    while connection.recv():
        begun = time.perf_counter()
        output = run()
        connection.send((time.perf_counter() - begun, output))


@contextmanager
def process_of(name: str, dtype: str, texts: list[str], threads: int) -> Iterator[Any]:
    """Yield a function that runs a rival in its process, and returns seconds and output."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=rival, args=(theirs, name, dtype, texts, threads))
    process.start()
    theirs.close()
    ours.recv()

    def run() -> Any:
        ours.send(True)
        return ours.recv()

    yield run
    ours.send(False)
    process.join()


@contextmanager
def server(dtype: str, threads: int) -> Iterator[int]:
    """Yield the port of a server of both models."""
    command = [sys.executable, "-c", "from qkv.cli import main; raise SystemExit(main())", "serve"]
    command += [MODEL, ENCODER, "--port", "0", *([] if dtype == "none" else ["--dtype", dtype])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines = []
    while not (found := re.search(r":(\d+)/v1", lines[-1] if lines else "")):
        if not (line := process.stderr.readline()):
            raise SystemExit("".join(lines))
        lines.append(line)
    try:
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


def post(port: int, path: str, body: dict[str, Any]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body), JSON)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {content.decode()}")
    return content


def complete(port: int, prompt: str, *, stream: bool = False) -> Answer:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    body |= {"stop": NO_STOP, "stream": stream}
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    content = post(port, "/v1/completions", body)
    if not stream:
        whole = json.loads(content)
        return whole["choices"][0]["text"], whole["usage"]["completion_tokens"]
    lines = [line[6:] for line in content.decode().split("\n\n") if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    text = "".join(one["choices"][0]["text"] for one in events[:-1])
    return text, events[-1]["usage"]["completion_tokens"]


def together(port: int, prompts: list[str], *, stream: bool) -> list[Answer]:
    """Send all prompts at the same time."""
    barrier = threading.Barrier(len(prompts))

    def one(prompt: str) -> Answer:
        barrier.wait()
        return complete(port, prompt, stream=stream)

    with ThreadPoolExecutor(len(prompts)) as clients:
        return list(clients.map(one, prompts))


def embed(port: int, texts: list[str]) -> None:
    for first in range(0, len(texts), BODY):
        body = {"model": ENCODER, "input": texts[first : first + BODY], "encoding_format": "base64"}
        post(port, "/v1/embeddings", body)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    output = run()
    return time.perf_counter() - begun, output


def take_turns(
    runs: dict[str, Callable[[], tuple[float, Any]]], rounds: int, label: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each run in each round, and the last outputs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    outputs: dict[str, Any] = {}
    for _ in track(range(rounds), label, transient=True):
        for name, run in runs.items():
            second, outputs[name] = run()
            seconds[name].append(second)
    return seconds, outputs


def measure(dtype: str, threads: int, rounds: int) -> dict[str, Any]:
    """Time generations and embeddings for one dtype."""
    torch.set_num_threads(threads)
    prompts, texts = choose_prompts(), sentences()
    names = [name for name in RIVALS if name not in (THEIRS, "qkv, in a process")]
    with server(dtype, threads) as port:
        complete(port, prompts[0])  # the first request
        with (
            process_of(names[0], dtype, prompts, threads) as batch,
            process_of(names[1], dtype, prompts, threads) as scheduler,
        ):
            generation, outputs = take_turns(
                {
                    names[0]: batch,
                    names[1]: scheduler,
                    AT_ONCE: lambda: timed(lambda: together(port, prompts, stream=False)),
                    "server, 16 at once, streamed": lambda: timed(
                        lambda: together(port, prompts, stream=True)
                    ),
                    ALONE: lambda: timed(lambda: [complete(port, one) for one in prompts]),
                },
                rounds,
                f"generation, {dtype}",
            )
        embed(port, texts[:2])
        with (
            process_of(THEIRS, dtype, texts, threads) as theirs,
            process_of("qkv, in a process", dtype, texts, threads) as ours,
        ):
            embeddings, _ = take_turns(
                {
                    THEIRS: theirs,
                    "qkv, in a process": ours,
                    f"server, bodies of {BODY}": lambda: timed(lambda: embed(port, texts)),
                },
                max(rounds, 5),
                f"embeddings, {dtype}",
            )
    texts_of = {name: [text for text, _ in output] for name, output in outputs.items()}
    same = {
        name: sum(a == b for a, b in zip(output, texts_of[STATIC], strict=True)) / ROWS
        for name, output in texts_of.items()
    }
    tokens = {name: sum(n for _, n in output) for name, output in outputs.items()}
    return {"generation": generation, "tokens": tokens, "same": same, "embeddings": embeddings}


def rows_of(
    seconds: dict[str, list[float]], base: str, done: dict[str, int], unit: str
) -> list[dict[str, str]]:
    """Return the rows of a table, of tokens or sentences per second."""
    rows = []
    for name, times in seconds.items():
        ratios = ratios_of(seconds, done, name, base)
        rows.append(
            {
                "what": name,
                f"{unit} per second": f"{done[name] / statistics.median(times):,.0f}",
                f"as fast as {base}": f"{statistics.median(ratios):.2f}x",
                "from - to": f"{min(ratios):.2f} - {max(ratios):.2f}",
            }
        )
    return rows


def ratios_of(
    seconds: dict[str, list[float]], done: dict[str, int], name: str, base: str
) -> list[float]:
    """Return in each round how many times as much is done in a second."""
    share = done[name] / done[base]
    return [share * b / a for a, b in zip(seconds[name], seconds[base], strict=True)]


def report(result: dict[str, Any], *, write: bool) -> None:
    parts = []
    for dtype, one in result["dtypes"].items():
        shown = "PyTorch" if dtype == "none" else dtype
        generated = rows_of(one["generation"], STATIC, one["tokens"], "tokens")
        for row in generated:
            row["same texts"] = f"{one['same'][row['what']]:.0%}"
        ratio = statistics.median(ratios_of(one["generation"], one["tokens"], AT_ONCE, ALONE))
        n = dict.fromkeys(one["embeddings"], len(sentences()))
        embedded = rows_of(one["embeddings"], THEIRS, n, "sentences")
        titles = (
            f"SmolLM2-135M, {shown}: 16 prompts, at most {TOKENS} tokens each; 16 at once are "
            f"{ratio:.2f} times as fast as one after another",
            f"MiniLM, {shown}: {len(sentences())} sentences (sentence-transformers in float32)",
        )
        for title, rows in zip(titles, (generated, embedded), strict=True):
            show_table(title, rows)
            parts.append(f"**{title}**\n\n{markdown_table(rows)}")
    if write:
        publish("serving", "\n\n".join([*parts, provenance(PATH, result)]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtypes", nargs="*", default=["int8", "float32"], help="or none: PyTorch")
    parser.add_argument("--only-show", action="store_true", help="keep and publish nothing")
    options = parser.parse_args()
    if options.publish_only:
        result = load(PATH)
    else:
        dtypes = {d: measure(d, options.threads, options.rounds) for d in options.dtypes}
        where = machine("sentence-transformers", "fastapi", "uvicorn")
        result = {"machine": where, "dtypes": dtypes}
        if not options.only_show:
            save(PATH, result)
    report(result, write=not options.only_show)


if __name__ == "__main__":
    main()

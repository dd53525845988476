"""Inference: qkv as PyTorch computes it and optimized, transformers, CTranslate2.

Every rival has a process of its own, with its own threads; they take turns, and each is asked for
the same tokens. GPT-2 and Marian have random weights and answers of a fixed length; SmolLM2 and
MiniLM are real. What float32 rivals answer must be equal; for coarser weights, the share of equal
tokens is in the table.
"""

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from _common import IMAGES, RESULTS, arguments, load, machine, provenance, publish, save
from _engines import ENGINES, WORK, prepare
from rich.progress import track

from qkv.inference.modules import PackedLinear
from qkv.inference.packed import pack
from qkv.tutorial.figures import new_figure, save_figure
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "inference.json"
BASE = "transformers"
EXACT = ("qkv", "qkv float32", "CTranslate2 float32")


def serve(connection: Connection, work: str, engine: str, folder: str, threads: int) -> None:
    """Load an engine, and run it as often as asked; answer with seconds and the output."""
    torch.set_num_threads(threads)
    try:
        run = ENGINES[engine](WORK[work], folder, threads)
        output = run()  # compiles, fills caches
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    connection.send(None)
    while connection.recv():
        begun = time.perf_counter()
        output = run()
        connection.send((time.perf_counter() - begun, output))


def bandwidth() -> float:
    """Return how many bytes a second all threads read from memory, at best.

    Of a sum and of our kernel's product, which reads nothing but weights.
    """
    x, row = torch.ones(2**16, 1024), torch.ones(1, 1024)
    packed, best = PackedLinear(pack(x, "float32")), 0.0
    for read in (x.sum, lambda: packed(row)) * 10:
        begun = time.perf_counter()
        read()
        best = max(best, x.nbytes / (time.perf_counter() - begun))
    return best


def measure(work: str, folder: str, *, threads: int, rounds: int) -> dict[str, Any]:
    """Time every engine of one kind of work in turns."""
    context, workers, missing = multiprocessing.get_context("spawn"), {}, {}
    prepare(work, folder)
    for engine in WORK[work].engines:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, work, engine, folder, threads))
        process.start()
        theirs.close()
        try:
            failure = ours.recv()
        except EOFError:
            failure = f"the process ended with status {process.exitcode}"
        if failure:
            missing[engine] = failure
        else:
            workers[engine] = ours
    seconds: dict[str, list[float]] = {engine: [] for engine in workers}
    outputs: dict[str, Any] = {}
    for _ in track(range(rounds), work, transient=True):
        for engine, connection in workers.items():
            connection.send(True)
            second, outputs[engine] = connection.recv()
            seconds[engine].append(second)
    for connection in workers.values():
        connection.send(False)
    return {"seconds": seconds, "missing": missing, "same": compare(outputs)}


def compare(outputs: dict[str, Any]) -> dict[str, float]:
    """Return how far each output equals that of transformers.

    Raises:
        SystemExit: if one in float32 differs.
    """
    reference = outputs[BASE]
    same = {}
    for engine, output in outputs.items():
        if isinstance(reference[0], str | int) or isinstance(reference[0][0], int):
            pairs = [
                (a, b)
                for x, y in zip(output, reference, strict=True)
                for a, b in zip(x, y, strict=False)
            ]
            same[engine] = sum(a == b for a, b in pairs) / len(pairs)
        else:
            x, y = torch.tensor(output), torch.tensor(reference)
            same[engine] = float(torch.cosine_similarity(x, y).min())
        if engine in EXACT and same[engine] < 0.999:
            raise SystemExit(f"{engine} does not compute the same: {same[engine]}")
    return same


def rows_of(name: str, result: dict[str, Any], limit: float) -> list[dict[str, str]]:
    """Return the rows of a table."""
    seconds = result["seconds"]
    rows = []
    for engine, times in seconds.items():
        ratios = [b / a for a, b in zip(times, seconds[BASE], strict=True)]
        median = statistics.median(times)
        share = WORK[name].bytes_of(engine) / median / limit if WORK[name].n_steps else 0
        rows.append(
            {
                "engine": engine,
                "seconds": f"{median:.3f}",
                "as fast as transformers": f"{statistics.median(ratios):.2f}x",
                "from - to": f"{min(ratios):.2f} - {max(ratios):.2f}",
                "equal to it": f"{result['same'][engine]:.3f}",
                "of the memory's speed": f"{share:.0%}" if share else "",
            }
        )
    for engine, why in result["missing"].items():
        empty = dict.fromkeys(rows[0], "")
        rows.append(empty | {"engine": engine, "seconds": f"did not run: {why}"})
    return rows


def report(result: dict[str, Any], *, write: bool) -> None:
    parts = []
    for name, one in result["work"].items():
        rows = rows_of(name, one, result["bytes per second"])
        show_table(WORK[name].title, rows)
        parts.append(f"**{WORK[name].title}**\n\n{markdown_table(rows)}")
    if not write:
        return
    draw(result)
    limit = f"The memory is read at {result['bytes per second'] / 1e9:.1f} GB/s."
    picture = "![How many times as fast as transformers each engine is](images/inference.png)"
    publish("inference", "\n\n".join([*parts, limit, picture, provenance(PATH, result)]))


def draw(result: dict[str, Any]) -> None:
    """Draw all ratios, one group for each kind of work."""
    n_rows = sum(len(one["seconds"]) for one in result["work"].values())
    figure, axes = new_figure(size=(8, 0.2 * n_rows))
    axis = axes[0, 0]
    labels, values = [], []
    for name, one in result["work"].items():
        for engine, times in one["seconds"].items():
            labels.append(f"{WORK[name].short}, {engine}")
            base = one["seconds"][BASE]
            values.append(statistics.median(b / a for a, b in zip(times, base, strict=True)))
    colors = ["C0" if "qkv" in label else "0.6" for label in labels]
    axis.barh(range(len(labels))[::-1], values, color=colors)
    axis.set_yticks(range(len(labels))[::-1], labels, fontsize=7)
    axis.axvline(1, color="0.3", linewidth=0.8)
    axis.set_xlabel("times as fast as transformers")
    save_figure(figure, IMAGES / "inference.png")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=WORK, help="kinds of work")
    parser.add_argument("--only-show", action="store_true", help="keep and publish nothing")
    parser.add_argument("--folder", default="out/benchmarks", help="for converted models")
    options = parser.parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        before = load(PATH) if PATH.exists() and options.only else {}
        kept, limit = before.get("work", {}), before.get("bytes per second", 0.0)
        for name in options.only or WORK:
            limit = max(limit, bandwidth())
            kept[name] = measure(
                name, options.folder, threads=options.threads, rounds=options.rounds
            )
        result = {"work": {name: kept[name] for name in WORK if name in kept}}
        # Kinds of work are measured one by one: what the last call was told says nothing of others.
        where = machine("transformers", "ctranslate2") | {
            "command": "python benchmarks/inference.py"
        }
        result |= {"bytes per second": max(limit, bandwidth()), "machine": where}
        if not options.only_show:
            save(PATH, result)
    else:
        result = load(PATH)
    report(result, write=not options.only_show)


if __name__ == "__main__":
    main()

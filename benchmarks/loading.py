"""Loading a real checkpoint (all-MiniLM-L6-v2): qkv against transformers, seconds and peak memory.

Time is measured in one process, all taking turns, and as the first load of a fresh process; memory
in fresh processes, as what the peak grows by until every weight has been read once.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _common import RESULTS, arguments, load, machine, provenance, publish, ratios, save
from torch import nn

from qkv.tutorial.measure import interleave, medians
from qkv.tutorial.tables import markdown_table, show_table
from qkv.zoo.catalog import ZOO

MODEL = "all-MiniLM-L6-v2"
ROUNDS = 15
PROCESSES = 5
PATH = RESULTS / "loading.json"
# What a fresh process does: everything is imported, and torch's libraries are warm.
FRESH = """
import sys, time, torch
sys.path.insert(0, {here!r})
from loading import LOADERS, memory
load = LOADERS[{name!r}]()
torch.nn.functional.linear(torch.randn(64, 384), torch.randn(384, 384))
before = memory("VmRSS")
begin = time.perf_counter()
model = load()
seconds = time.perf_counter() - begin
for parameter in model.parameters():
    parameter.detach().sum()
print(seconds, memory("VmHWM") - before)
"""


def memory(kind: str) -> int:
    """Return what this process has (VmRSS) or had at most (VmHWM), in bytes; Linux counts it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{kind}:")[2].split()[0])


def ours() -> Callable[[], nn.Module]:
    from qkv.checkpoints.checkpoint import load_checkpoint

    folder = ZOO[MODEL].locate()
    return lambda: load_checkpoint(folder).model


def ours_with_tokenizer() -> Callable[[], nn.Module]:
    from qkv.tasks.pretrained import load

    return lambda: load(MODEL).model


def theirs() -> Callable[[], nn.Module]:
    folder, transformers = ZOO[MODEL].locate(), quiet_transformers()
    return lambda: transformers.AutoModel.from_pretrained(folder)


def theirs_with_tokenizer() -> Callable[[], nn.Module]:
    folder, transformers = ZOO[MODEL].locate(), quiet_transformers()

    def load() -> nn.Module:
        transformers.AutoTokenizer.from_pretrained(folder)
        return transformers.AutoModel.from_pretrained(folder)

    return load


def quiet_transformers() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("AutoModel", "AutoTokenizer", "BertModel", "BertTokenizerFast"):
        getattr(transformers, name)  # imported when first asked for
    return transformers


LOADERS = {
    "qkv.load": ours_with_tokenizer,
    "AutoModel and AutoTokenizer": theirs_with_tokenizer,
    "qkv, without the tokenizer": ours,
    "AutoModel": theirs,
}
RIVALS = {
    "AutoModel and AutoTokenizer": "qkv.load",
    "AutoModel": "qkv, without the tokenizer",
}


def first_loads() -> dict[str, dict[str, float]]:
    """Measure the first load of fresh processes, all taking turns."""
    here = str(Path(__file__).parent)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
    for _ in range(PROCESSES):
        for name in LOADERS:
            code = FRESH.format(here=here, name=name)
            run = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            seconds, peak = map(float, run.stdout.split())
            found[name].append((seconds, peak))
    return {
        name: {
            "first load, seconds": median(seconds for seconds, _ in runs),
            "peak, bytes": max(peak for _, peak in runs),
        }
        for name, runs in found.items()
    }


def measure() -> dict:
    file = ZOO[MODEL].locate() / "model.safetensors"
    seconds = interleave({name: make() for name, make in LOADERS.items()}, rounds=ROUNDS, turn=3)
    return {
        "file, bytes": file.stat().st_size,
        "median seconds": medians(seconds),
        "ratio to qkv (median of rounds)": {
            name: ratios(seconds, own)[name] for name, own in RIVALS.items()
        },
        "fresh processes": first_loads(),
    }


def report(result: dict) -> None:
    faster = result["ratio to qkv (median of rounds)"]
    rows = [
        {
            "loader": name,
            "load": f"{1000 * result['median seconds'][name]:.0f} ms",
            "qkv is faster by": f"{faster[name]:.2f}x" if name in faster else "",
            "first load of a process": f"{1000 * fresh['first load, seconds']:.0f} ms",
            "peak memory": f"{fresh['peak, bytes'] / result['file, bytes']:.2f}x the file",
        }
        for name, fresh in result["fresh processes"].items()
    ]
    show_table(f"Loading {MODEL}", rows)
    publish("loading", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}")


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        save(PATH, {**measure(), "machine": machine("safetensors", "transformers")})
    report(load(PATH))


if __name__ == "__main__":
    main()

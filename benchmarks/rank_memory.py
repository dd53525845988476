"""Memory of a process that trains: alone, and as one of two with DDP and with FSDP2.

Peak of the resident memory after the first step of ten, and from start to end, less what the
process holds after it has trained a tiny model.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save

from qkv.data.pretraining import collate_causal
from qkv.models.gpt import GPT, GPTConfig
from qkv.training import ranks
from qkv.training.loop import connected, train
from qkv.training.pretraining import causal_loss
from qkv.training.run import Callback, Run
from qkv.training.settings import Training
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, PATH = DOCS / "scale.md", RESULTS / "rank_memory.json"
SIZES = {"vocab_size": 8000, "n_positions": 64, "d_model": 512, "n_heads": 8, "n_layers": 12}
CASES = {"one process": (1, "none"), "two, DDP": (2, "none"), "two, FSDP2": (2, "fsdp2")}
STEPS = 10


def memory(field: str) -> float:
    """Return a field of this process's status, in MB: VmRSS (now) or VmHWM (the peak so far)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) / 1000


def forget_peak() -> float:
    """Begin a new peak (man 5 proc, clear_refs); return the old one."""
    peak = memory("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")
    return peak


class Peak(Callback):
    """Measure the peak while steps run, after the first, which makes the averages."""

    first = later = 0.0

    def after_step(self, run: Run) -> None:
        """Begin anew after the first step; look after the others."""
        if run.step == 1:
            self.first = forget_peak()
        self.later = memory("VmHWM")


def learn(sharding: Any, **sizes: int) -> dict[str, float]:
    """Train a model; return its number of parameters, and the two peaks."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**SIZES, "d_ff": 2048, **sizes}))
    n_parameters = sum(p.numel() for p in model.parameters())
    batch = collate_causal([[(7 * i + at) % 61 for at in range(33)] for i in range(2)], pad=0)
    settings, peak = Training(steps=STEPS, learning_rate=1e-4, sharding=sharding), Peak()
    train(model, [batch] * STEPS, causal_loss, settings, callbacks=[peak], device="cpu")
    overall = max(peak.first, memory("VmHWM"))
    return {"parameters": n_parameters, "steps": peak.later, "overall": overall}


def work(folder: Path, sharding: Any) -> None:
    """Train, as one of the processes, and write what was measured."""
    learn(sharding, vocab_size=61, d_model=8, d_ff=8, n_layers=1)  # imports what training needs
    gc.collect()
    before = memory("VmRSS")
    measured = learn(sharding)
    measured |= {name: measured[name] - before for name in ("steps", "overall")}
    (folder / f"{ranks.rank()}.json").write_text(json.dumps(measured))


def measure(n: int, sharding: str) -> dict[str, Any]:
    """Run one case; return the highest numbers of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={n}", __file__, "--work", folder, sharding]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        each = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    return {name: max(one[name] for one in each) for name in each[0]}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", nargs=2, help="be one of the processes")
    options = parser.parse_args()
    if options.work:
        torch.set_num_threads(1)
        with connected("cpu"):
            work(Path(options.work[0]), options.work[1])
        return
    if not options.publish_only:
        cases = {name: measure(*case) for name, case in CASES.items()}
        save(PATH, {"machine": machine("accelerate"), "cases": cases})
    report(load(PATH))


def report(result: dict[str, Any]) -> None:
    """Write the table of docs/scale.md."""
    cases = result["cases"]
    alone = cases["one process"]
    columns = {"steps": "steps 2 to 10", "overall": "from start to end"}
    table = [
        {"processes": name}
        | {
            what: f"{case[key]:.0f} MB ({case[key] / alone[key]:.2f})"
            for key, what in columns.items()
        }
        for name, case in cases.items()
    ]
    show_table(f"A GPT of {alone['parameters']:,.0f} parameters", table)
    publish("memory", f"{markdown_table(table)}\n\n{provenance(PATH, result)}", DOCUMENT)


if __name__ == "__main__":
    main()

"""Kill processes of a training at random, go on with 1, 2 or 4, and compare with a run left alone.

Each trial starts two processes by torchrun, kills one of them (or all, with torchrun itself) by
SIGKILL at a random moment after the first checkpoint, and starts the same command again. With two
processes again, weights and losses must be those of the run left alone, to the bit; with another
number, within rounding, and in each epoch every example must have been used exactly once.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from _common import DOCS, RESULTS, arguments, load_runs, machine, provenance, publish, save_runs
from safetensors.torch import load_file, save_file

from qkv.data.batches import Batching
from qkv.data.pretraining import TokenBatch, token_batches
from qkv.models.gpt import GPT, GPTConfig
from qkv.training import ranks
from qkv.training.checkpointing import Checkpoints
from qkv.training.loop import connected, train
from qkv.training.pretraining import causal_loss
from qkv.training.settings import Training
from qkv.training.sharding import whole
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, PATH = DOCS / "scale.md", RESULTS / "killed_ranks.json"
TRIALS, EPOCHS, N_TEXTS, BATCH, EVERY = 30, 3, 97, 5, 7
STEPS = EPOCHS * -(-N_TEXTS // BATCH)
SETTINGS = {"trials": TRIALS, "steps": STEPS, "texts": N_TEXTS, "save_every": EVERY}
WAIT = 60  # seconds in which all processes have to end


def work(folder: Path, sharding: Any) -> None:
    """Train, as one of the processes; note which texts each step used."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 101, "n_positions": 17, "d_model": 12, "n_heads": 3, "d_ff": 23}
    rates = dict.fromkeys(("dropout", "attention_dropout", "embedding_dropout", "head_dropout"), 0)
    model = GPT(GPTConfig(**sizes, **rates, n_layers=2)).double()
    texts = [[i, *(i * at % 101 for at in range(2, 7))] for i in range(N_TEXTS)]
    rows = [(text[:-1], range(5), text[1:]) for text in texts]
    batches = token_batches(rows, pad=0, batching=Batching(batch_size=BATCH, epochs=EPOCHS, seed=3))
    seen: list[int] = []

    def loss(model: Any, batch: TokenBatch) -> torch.Tensor:
        seen[:] = batch.tokens[:, 0].tolist()
        return causal_loss(model, batch)

    class Notes(Checkpoints):
        def after_step(self, run: Any) -> None:
            with (folder / f"rank-{ranks.rank()}.jsonl").open("a") as file:
                file.write(json.dumps([run.step, ranks.n_ranks(), seen]) + "\n")
            super().after_step(run)

    settings = Training(steps=STEPS, learning_rate=0.01, sharding=sharding, ema=0.9)
    history = train(
        model, batches, loss, settings, callbacks=[Notes(folder / "run", every=EVERY)], device="cpu"
    )
    tensors = {name: whole(p.detach()) for name, p in model.named_parameters()}
    if ranks.is_first():
        tensors["losses"] = torch.tensor(history.losses, dtype=torch.float64)
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "end")


def start(folder: Path, sharding: str, n: int) -> subprocess.Popen[bytes]:
    """Start the training in n processes."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n}", __file__, "--work", str(folder), sharding]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def finish(folder: Path, sharding: str, n: int) -> dict[str, torch.Tensor]:
    """Run the training to its end; return its losses and weights."""
    if start(folder, sharding, n).wait(timeout=600):
        raise SystemExit(f"the training failed; see {folder / 'log'}")
    return load_file(folder / "end")


def workers(agent: int) -> list[int]:
    """Return the processes that torchrun has started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            own = dict(
                entry.split("=", 1)
                for entry in (path / "environ").read_text().split("\0")
                if "=" in entry
            )
        except (OSError, ValueError):
            continue
        if parent == agent and "RANK" in own:
            found[int(own["RANK"])] = int(path.name)
    return [found[rank] for rank in sorted(found)]


def steps_of(folder: Path) -> int:
    """Return the last step that the first rank has noted."""
    path = folder / "rank-0.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])[0] if lines else 0


def kill(folder: Path, sharding: str, rng: random.Random) -> dict[str, Any]:
    """Start a training of two processes, and kill one of them or all at a random moment."""
    agent = start(folder, sharding, 2)
    at, victim = rng.randint(EVERY + 1, STEPS - 2), rng.choice(["0", "1", "all"])
    while steps_of(folder) < at:
        if agent.poll() is not None:
            raise SystemExit(f"the training ended by itself; see {folder / 'log'}")
        time.sleep(0.002)
    time.sleep(rng.random() * 0.05)
    own = workers(agent.pid)
    victims = [*own, agent.pid] if victim == "all" else [own[int(victim)]]
    for one in victims:
        os.kill(one, signal.SIGKILL)
    begun = time.monotonic()
    agent.wait(timeout=WAIT)
    while any(Path(f"/proc/{one}").exists() for one in own):
        if time.monotonic() - begun > WAIT:
            raise SystemExit(f"processes {own} are still there {WAIT} seconds after the kill")
        time.sleep(0.01)
    seconds = round(time.monotonic() - begun, 2)
    return {"victim": victim, "killed after step": steps_of(folder), "ended in": seconds}


def uses(folder: Path) -> list[Counter[int]]:
    """Count how often each text was used in each epoch, by the steps that count.

    The steps after the last checkpoint of a killed run are repeated: the last note of each counts.
    """
    notes: dict[int, dict[int, tuple[int, list[int]]]] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for line in path.read_text().splitlines():
            step, n, rows = json.loads(line)
            notes.setdefault(step, {})[int(path.stem[5:])] = (n, rows)
    counts = [Counter[int]() for _ in range(EPOCHS)]
    for step, by_rank in notes.items():
        n, _ = by_rank[0]  # rank 0 takes part in every step
        size = sum(len(rows) for rank, (_, rows) in by_rank.items() if rank < n)
        for rank, (_, rows) in by_rank.items():
            if rank < n:
                counts[(step - 1) * EPOCHS // STEPS].update(rows)
        assert size <= BATCH, (step, by_rank)
    return counts


def trial(number: int, folder: Path, alone: dict[str, dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Kill one training, go on, and compare."""
    rng = random.Random(number)
    sharding, n = ("none", "fsdp2")[number % 2], (2, 1, 4)[number // 2 % 3]
    row = {"trial": number, "sharding": sharding, "goes on with": n}
    row |= kill(folder, sharding, rng)
    end = finish(folder, sharding, n)
    once = Counter(dict.fromkeys(range(N_TEXTS), 1))
    repeated = [count == once for count in uses(folder)]
    return row | differences(end, alone[sharding]) | {"every text once": all(repeated)}


def differences(end: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the largest difference of the losses, which are relative, and of the weights."""
    apart = {name: float((end[name] - one).abs().max()) for name, one in alone.items()}
    losses = apart.pop("losses") / float(alone["losses"].max())
    return {"losses": losses, "weights": max(apart.values())}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", nargs=2, help="be one of the processes")
    options = parser.parse_args()
    if options.work:
        torch.set_num_threads(1)
        with connected("cpu"):
            work(Path(options.work[0]), options.work[1])
        return
    result = load_runs(PATH, SETTINGS)
    if not options.publish_only:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            alone = {kind: finish(folder / kind, kind, 2) for kind in ("none", "fsdp2")}
            for number in range(len(result["runs"]), TRIALS):
                result["runs"].append(trial(number, folder / str(number), alone))
                result["machine"] = machine("accelerate")
                save_runs(PATH, result)
                print(result["runs"][-1], flush=True)
    report(result)


def report(result: dict[str, Any]) -> None:
    """Write the table of docs/scale.md: a row for each sharding and number of processes."""
    table = []
    for sharding, n in sorted({(run["sharding"], run["goes on with"]) for run in result["runs"]}):
        own = [r for r in result["runs"] if (r["sharding"], r["goes on with"]) == (sharding, n)]
        table.append(
            {
                "sharding": sharding,
                "resumed with": str(n),
                "runs": str(len(own)),
                "one process killed, all killed": f"{sum(r['victim'] != 'all' for r in own)}, "
                f"{sum(r['victim'] == 'all' for r in own)}",
                "all processes gone within": f"{max(r['ended in'] for r in own):.1f} s",
                "difference in losses, in weights": f"{max(r['losses'] for r in own):.0e}, "
                f"{max(r['weights'] for r in own):.0e}".replace("0e+00", "0"),
                "each text once per epoch": f"{sum(r['every text once'] for r in own)} of "
                f"{len(own)}",
            }
        )
    show_table("Killed and gone on", table)
    publish("killed", f"{markdown_table(table)}\n\n{provenance(PATH, result)}", DOCUMENT)


if __name__ == "__main__":
    main()

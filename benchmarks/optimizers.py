"""AdamW and Muon on the same recipe: bits per character, each with the rate that suits it best.

The rate is chosen with seed 0 on the first half of the validation split of tinyshakespeare, and the
numbers are those of three other seeds on its second half. Where the highest rate is the best, it is
doubled. Runs that results/optimizers.json has are not run again.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from _common import (
    DOCS,
    RESULTS,
    arguments,
    load_runs,
    machine,
    over_seeds,
    provenance,
    publish,
    save_runs,
)
from hybrids import TASKS, batches, build, characters, predict_at

from qkv.training.loop import train
from qkv.training.pretraining import causal_loss
from qkv.training.progress import Bar
from qkv.training.settings import Training
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, PATH = DOCS / "variants.md", RESULTS / "optimizers.json"
OPTIMIZERS = ("adamw", "muon")
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
SEEDS = (1, 2, 3)
STEPS, LENGTH = 500, 64
SETTINGS = {"steps": STEPS, "length": LENGTH, "pattern": "attention"}


def learn(optimizer: str, rate: float, seed: int) -> dict[str, Any]:
    """Train the small decoder of hybrids.py; return bits per character of both halves."""
    torch.manual_seed(seed)
    task = TASKS["characters"]
    model = build("attention", task.vocab_size)
    settings: Any = {"optimizer": optimizer, "learning_rate": rate, "evaluate_every": STEPS}
    history = train(
        model,
        batches(task, seed),
        causal_loss,
        Training(steps=STEPS, **settings),
        callbacks=[Bar(f"{optimizer}, rate {rate:g}")],
        device="cpu",
    )
    text = characters("validation")
    halves = text[: len(text) // 2], text[len(text) // 2 :]
    chosen, tested = (bits(model, half) for half in halves)
    return {"chosen on": chosen, "tested on": tested, "seconds": history.seconds}


@torch.no_grad()
def bits(model: Any, text: torch.Tensor) -> float:
    total, starts = 0.0, torch.arange(0, len(text) - LENGTH, LENGTH)
    for some in starts.split(256):
        block = text[some[:, None] + torch.arange(LENGTH + 1)]
        total += float(causal_loss(model, predict_at(block[:, :-1], block[:, 1:], 0)))
    return total / len(starts) / LENGTH / math.log(2)


def run_all() -> None:
    result = load_runs(PATH, SETTINGS)

    def once(optimizer: str, rate: float, seed: int) -> dict[str, Any]:
        key = {"optimizer": optimizer, "rate": rate, "seed": seed}
        for run in result["runs"]:
            if key.items() <= run.items():
                return run
        run = key | learn(optimizer, rate, seed)
        result["runs"].append(run)
        result["machine"] = machine("accelerate")
        save_runs(PATH, result)
        print(run, flush=True)
        return run

    for optimizer in OPTIMIZERS:
        best = best_rate(lambda rate, own=optimizer: once(own, rate, 0)["chosen on"])
        for seed in SEEDS:
            once(optimizer, best, seed)


def best_rate(score: Callable[[float], float]) -> float:
    """Return the rate of the lowest score; go on beyond the highest while that is the best."""
    scores = {rate: score(rate) for rate in RATES}
    while (best := min(scores, key=scores.__getitem__)) == max(scores):
        scores[2 * best] = score(2 * best)
    return best


def report(result: Mapping[str, Any]) -> None:
    """Write the table of docs/variants.md: a row for each optimizer, a column for each rate."""
    table = []
    rates = sorted({run["rate"] for run in result["runs"]})
    for optimizer in OPTIMIZERS:
        runs = [run for run in result["runs"] if run["optimizer"] == optimizer]
        searched = {run["rate"]: run["chosen on"] for run in runs if run["seed"] == 0}
        best = min(searched, key=searched.__getitem__)
        tested = [run for run in runs if run["seed"] in SEEDS and run["rate"] == best]
        seconds = statistics.mean(run["seconds"] for run in runs)
        table.append(
            {"optimizer": {"adamw": "AdamW", "muon": "Muon"}[optimizer]}
            | {f"rate {one:g}": f"{searched[one]:.3f}" if one in searched else "" for one in rates}
            | {
                "chosen rate": f"{tested[0]['rate']:g}",
                "bits per character": over_seeds(tested, "tested on", "{:.3f}".format),
                "seconds": f"{seconds:.0f}",
                "seeds": str(len(tested)),
            }
        )
    show_table("AdamW and Muon", table)
    publish("optimizers", f"{markdown_table(table)}\n\n{provenance(PATH, result)}", DOCUMENT)


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        run_all()
    report(load_runs(PATH, SETTINGS))


if __name__ == "__main__":
    main()

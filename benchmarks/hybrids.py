"""Layer patterns at equal parameters and steps: what each learns of three tasks.

Every run is written to results/hybrids.json when it ends; what is there is not run again. Batches
and steps are the same for all patterns, and so is the rate, which was chosen on attention alone.
The width of the feed-forward network makes up for the gates of the delta rule, and for the
projections that shared keys and values save. Each task is also
tested at lengths of up to twice those of the training.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from _common import (
    DOCS,
    IMAGES,
    RESULTS,
    arguments,
    load_runs,
    machine,
    over_seeds,
    provenance,
    publish,
    save_runs,
)
from torch import Tensor

from qkv.data.pretraining import TokenBatch
from qkv.data.sets import load_set
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.training.loop import train
from qkv.training.pretraining import causal_loss
from qkv.training.progress import Bar
from qkv.training.settings import Training
from qkv.tutorial.figures import draw_curves, new_figure, save_figure
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, PATH = DOCS / "variants.md", RESULTS / "hybrids.json"
TOKENS = 1024  # of a batch
RATE = 5e-3  # of 5e-3 and 1e-2, that with which attention learned all three tasks
WINDOW = 8
BASELINE = "attention"
PATTERNS: dict[str, tuple[str, ...]] = {
    BASELINE: ("attention",),
    "3 gated delta : 1 attention": ("gated_delta", "gated_delta", "gated_delta", "attention"),
    "gated delta": ("gated_delta",),
    "3 window : 1 NoPE": ("window", "window", "window", "nope"),
    "window": ("window",),
    "attention, shared in turn": ("attention", "shared"),
}
SYMBOLS, VALUES = 32, 8
Draw = Callable[[int, int, torch.Generator], TokenBatch]


@dataclass(frozen=True)
class Task:
    """A task: its batches, and how long it is trained.

    Args:
        draw: makes rows of size n, from n, their number, and a generator.
        sizes: smallest and largest n in training; tests go up to twice the largest.
        per_size: tokens of a row, divided by n.
        vocab_size: number of tokens.
        steps: steps of training.
    """

    draw: Draw = field(repr=False)
    sizes: tuple[int, int]
    per_size: int
    vocab_size: int
    steps: int


def predict_at(tokens: Tensor, targets: Tensor, first: int) -> TokenBatch:
    """Make a batch in which every position from `first` on has a target, the last columns."""
    at = torch.arange(tokens.numel()).view_as(tokens)[:, first:]
    everything = torch.ones_like(tokens, dtype=torch.bool)
    return TokenBatch(
        tokens=tokens, token_mask=everything, positions=at.flatten(), targets=targets.flatten()
    )


def distinct(n: int, rows: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, SYMBOLS, generator=generator).argsort(-1)[:, :n]


def copying(n: int, rows: int, generator: torch.Generator) -> TokenBatch:
    """Draw `s_1 ... s_n # s_1 ... s_n`, of different symbols."""
    symbols = distinct(n, rows, generator)
    tokens = torch.cat((symbols, torch.full((rows, 1), SYMBOLS), symbols[:, :-1]), 1)
    return predict_at(tokens, symbols, n)


def recall(n: int, rows: int, generator: torch.Generator) -> TokenBatch:
    """Draw n pairs of a key and a value, one token each, then all keys in another order."""
    keys = distinct(n, rows, generator)
    values = torch.randint(VALUES, (rows, n), generator=generator)
    order = torch.rand(rows, n, generator=generator).argsort(-1)
    asked = SYMBOLS * VALUES + keys.gather(1, order)
    return predict_at(torch.cat((keys * VALUES + values, asked), 1), values.gather(1, order), n)


@cache
def characters(split: str) -> Tensor:
    """Number the characters of tinyshakespeare."""
    (train_text,), (text,) = (load_set("generate", "tinyshakespeare", s) for s in ("train", split))
    ids = {character: i for i, character in enumerate(sorted(set(train_text)))}
    return torch.tensor([ids[character] for character in text])


def blocks(n: int, rows: int, generator: torch.Generator) -> TokenBatch:
    """Draw blocks of n characters of the training split."""
    text = characters("train")
    starts = torch.randint(len(text) - n, (rows, 1), generator=generator)
    block = text[starts + torch.arange(n + 1)]
    return predict_at(block[:, :-1], block[:, 1:], 0)


TASKS = {
    "copying": Task(copying, (4, 16), 2, SYMBOLS + 1, steps=500),
    "recall": Task(recall, (4, 16), 2, SYMBOLS * (VALUES + 1), steps=400),
    "characters": Task(blocks, (64, 64), 1, 65, steps=500),
}
SIZES = {"d_model": 48, "n_heads": 2, "d_ff": 96, "n_layers": 4}
SETTINGS = {
    "sizes": SIZES,
    "window": WINDOW,
    "tokens of a batch": TOKENS,
    "learning rate": RATE,
    **{
        name: {key: value for key, value in asdict(task).items() if key != "draw"}
        for name, task in TASKS.items()
    },
}


def build(pattern: str, vocab_size: int) -> Hybrid:
    """Build a model with as nearly the parameters of attention as a width d_ff allows."""

    def make(layers: tuple[str, ...], d_ff: int) -> Hybrid:
        window = WINDOW if "window" in layers else None
        sizes: dict[str, Any] = SIZES | {"d_ff": d_ff}
        return Hybrid(HybridConfig(vocab_size=vocab_size, layers=layers, window=window, **sizes))

    state = torch.get_rng_state()
    wanted = n_parameters(make(PATTERNS[BASELINE], SIZES["d_ff"]))
    widths = range(SIZES["d_ff"] - 8, SIZES["d_ff"] + 25)
    layers = PATTERNS[pattern]
    d_ff = min(widths, key=lambda width: abs(n_parameters(make(layers, width)) - wanted))
    torch.set_rng_state(state)
    return make(layers, d_ff)


def n_parameters(model: Hybrid) -> int:
    return sum(p.numel() for p in model.parameters())


def batches(task: Task, seed: int) -> Iterator[TokenBatch]:
    """Yield batches without end, of a random size n each and of about equal work."""
    generator = torch.Generator().manual_seed(seed)
    low, high = task.sizes
    while True:
        n = int(torch.randint(low, high + 1, (1,), generator=generator))
        yield task.draw(n, TOKENS // (task.per_size * n), generator)


@torch.no_grad()
def right_by_size(model: Hybrid, task: Task) -> dict[int, float]:
    """Return the share of right targets by size n, on new rows."""
    generator = torch.Generator().manual_seed(10_000)
    shares = {}
    for n in range(task.sizes[0], 2 * task.sizes[1] + 1):
        batch = task.draw(n, 64, generator)
        hidden = model.hidden(batch.tokens).flatten(0, 1)[batch.positions]
        right = model.head(hidden).argmax(-1) == batch.targets
        shares[n] = round(float(right.float().mean()), 4)
    return shares


@torch.no_grad()
def bits(model: Hybrid, length: int) -> float:
    """Return bits per character of the validation split, in blocks of this length."""
    text, total = characters("validation"), 0.0
    starts = torch.arange(0, len(text) - length, length)
    for some in starts.split(256):
        block = text[some[:, None] + torch.arange(length + 1)]
        total += float(causal_loss(model, predict_at(block[:, :-1], block[:, 1:], 0)))
    return total / len(starts) / length / math.log(2)


def learn(name: str, pattern: str, seed: int) -> dict[str, Any]:
    """Train a pattern on a task and test it."""
    task = TASKS[name]
    torch.manual_seed(seed)
    model = build(pattern, task.vocab_size)
    settings = Training(steps=task.steps, learning_rate=RATE, evaluate_every=task.steps)
    bar = Bar(f"{name}, {pattern}")
    history = train(
        model, batches(task, seed), causal_loss, settings, callbacks=[bar], device="cpu"
    )
    result: dict[str, Any] = {"parameters": n_parameters(model), "seconds": history.seconds}
    if name == "characters":
        length = task.sizes[1]
        return result | {"in": bits(model, length), "twice": bits(model, 2 * length)}
    shares = right_by_size(model, task)
    halves = [
        [share for n, share in shares.items() if (n > task.sizes[1]) == far] for far in (0, 1)
    ]
    return result | {
        "in": statistics.mean(halves[0]),
        "twice": statistics.mean(halves[1]),
        "right by size": shares,
    }


def run_all(seeds: int) -> None:
    result = load_runs(PATH, SETTINGS)
    done = {(run["task"], run["pattern"], run["seed"]) for run in result["runs"]}
    for seed in range(seeds):
        for task in TASKS:
            for pattern in PATTERNS:
                if (task, pattern, seed) in done:
                    continue
                run = learn(task, pattern, seed)
                result["runs"].append({"task": task, "pattern": pattern, "seed": seed} | run)
                result["machine"] = machine("accelerate")
                save_runs(PATH, result)
                print(
                    f"{task:10}  {pattern:28}  seed {seed}  {run['in']:.4f}  {run['twice']:.4f}  "
                    f"{run['seconds']:.0f} s",
                    flush=True,
                )


def report(result: Mapping[str, Any]) -> None:
    """Write the table and the picture of docs/variants.md."""
    runs = {
        task: {
            pattern: [
                run for run in result["runs"] if (run["task"], run["pattern"]) == (task, pattern)
            ]
            for pattern in PATTERNS
        }
        for task in TASKS
    }
    if not all(some for of_task in runs.values() for some in of_task.values()):
        raise SystemExit("not every pattern was run on every task: nothing is published")
    table = [row(pattern, {task: runs[task][pattern] for task in TASKS}) for pattern in PATTERNS]
    show_table("Layer patterns", table)
    draw({task: runs[task] for task in ("copying", "recall")})
    picture = (
        "![Right tokens by size, for each layer pattern, within and beyond the sizes of the "
        "training](images/hybrids.png)"
    )
    parts = [markdown_table(table), picture, provenance(PATH, result)]
    publish("hybrids", "\n\n".join(parts), DOCUMENT)


def row(pattern: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    every = [run for some in runs.values() for run in some]
    cells = {"layers": pattern}
    for task, title in (("copying", "copying"), ("recall", "recall")):
        low, high = TASKS[task].sizes
        cells[f"{title}, {low} to {high}"] = over_seeds(runs[task], "in", "{:.1%}".format)
        cells[f"{title}, to {2 * high}"] = over_seeds(runs[task], "twice", "{:.1%}".format)
    length = TASKS["characters"].sizes[1]
    cells[f"bits per character, {length}"] = over_seeds(runs["characters"], "in", "{:.3f}".format)
    cells[f"bits, {2 * length}"] = over_seeds(runs["characters"], "twice", "{:.3f}".format)
    cells["parameters (characters)"] = f"{runs['characters'][0]['parameters']:,}"
    cells["seconds"] = f"{statistics.mean(run['seconds'] for run in every):.0f}"
    cells["seeds"] = str(len(runs["characters"]))
    return cells


def draw(runs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Draw the share of right targets by size, means over the seeds."""
    figure, axes = new_figure(1, 2, size=(11, 3.8))
    for place, (task, of_task) in zip(axes[0], runs.items(), strict=True):
        curves = {}
        for pattern, some in of_task.items():
            by_size = [run["right by size"] for run in some]
            sizes = [int(n) for n in by_size[0]]
            means = [
                statistics.mean(list(each.values())[i] for each in by_size)
                for i in range(len(sizes))
            ]
            curves[pattern] = sizes, means
        title = f"{task.capitalize()} (dotted: the largest size of the training)"
        what = "pairs" if task == "recall" else "symbols"
        draw_curves(place, curves, x=what, y="right tokens", title=title)
        place.axvline(TASKS[task].sizes[1], color="gray", linestyle=":")
        place.set_ylim(-0.03, 1.03)
    save_figure(figure, IMAGES / "hybrids.png")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options = parser.parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        run_all(options.seeds)
    report(load_runs(PATH, SETTINGS))


if __name__ == "__main__":
    main()

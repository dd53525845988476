"""Training a small GPT: qkv, transformers (Trainer and a bare loop) and nanoGPT, tokens per second.

The setting is the one that nanoGPT is known for on a CPU: 4 layers, 4 heads, 128 wide, 64
characters of context, 12 rows, no dropout. All rivals start from the same weights (float32), see
the same batches, which are made beforehand, and use fused AdamW with the same two groups; the
tanh-GELU of GPT-2 stands in nanoGPT too. Seconds are those between the begin of the first step and
the end of the last one, so no rival's preparations count. Before timing, the losses of the first
steps are compared.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from _common import IMAGES, RESULTS, arguments, load, machine, provenance, publish, ratios, save
from _language_models import Rival, make_rivals
from _nanogpt import nanogpt_from
from rich.progress import track
from torch import Tensor

from qkv.data.pretraining import TokenBatch, collate_causal
from qkv.data.text import find_data, read_lines
from qkv.errors import DataError
from qkv.models.gpt import GPT, GPTConfig
from qkv.training.pretraining import causal_loss
from qkv.tutorial.figures import new_figure, save_figure
from qkv.tutorial.measure import interleave, medians
from qkv.tutorial.tables import markdown_table, show_table

LAYERS, HEADS, WIDTH, CONTEXT, ROWS, VOCAB = 4, 4, 128, 64, 12, 65
TOKENS = ROWS * CONTEXT
CHECKED, ROUNDS, TURN = 20, 15, 10
SQUARE = 2048
PATH = RESULTS / "language_model.json"


def read_ids() -> tuple[str, Tensor]:
    """The characters of tinyshakespeare, where it is; else as many random ones."""
    try:
        text = "\n".join(read_lines(find_data("tinyshakespeare") / "input.txt.gz"))
    except DataError:
        return "random characters", torch.randint(VOCAB, (1_115_393,))
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    assert len(ids) == VOCAB, f"tinyshakespeare has {len(ids)} characters, expected {VOCAB}"
    return "tinyshakespeare", torch.tensor([ids[character] for character in text])


def draw_batches(ids: Tensor, n: int) -> list[TokenBatch]:
    starts = torch.randint(len(ids) - CONTEXT, (n, ROWS)).tolist()
    rows = [[ids[i : i + CONTEXT + 1].tolist() for i in row] for row in starts]
    return [collate_causal(each, pad=0) for each in rows]


def check(start: GPT, rivals: Mapping[str, Rival], batches: Sequence[TokenBatch]) -> dict[str, Any]:
    """Stop where a rival does not compute the same; warms all of them up, too."""
    exact = copy.deepcopy(start).double()
    with torch.no_grad():
        ours = float(causal_loss(exact, batches[0])) / TOKENS
        nano = float(nanogpt_from(exact)(batches[0].tokens, batches[0].targets))
    assert math.isclose(ours, nano, rel_tol=1e-12), f"nanoGPT's loss is {nano}, ours {ours}"
    losses = {}
    for name, rival in track(rivals.items(), "comparing losses", transient=True):
        rival.turn(batches)
        losses[name] = [float(loss) for loss in rival.losses]
    far = {
        name: max(abs(a - b) for a, b in zip(each, losses["qkv"], strict=True))
        for name, each in losses.items()
    }
    assert max(far.values()) < 1e-4, f"the rivals do not compute the same losses: {far}"
    ours = losses["qkv"]
    return {"steps": len(ours), "first": ours[0], "last": ours[-1], "largest difference": far}


def model_flops(model: GPT) -> int:
    """Floating point operations of a step: 6 N + 12 L d T for each of its tokens.

    Kaplan et al. 2020, section 2.1, and the attention's products, causal or not, three times. N
    counts the parameters that are multiplied: not the learned positions.
    """
    n = sum(p.numel() for p in model.parameters()) - model.positions.table.weight.numel()
    return TOKENS * (6 * n + 12 * LAYERS * WIDTH * CONTEXT)


def measure_products() -> dict[str, float]:
    """GFLOP/s of a large product, taken as the peak, and of the step's own."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    ones = [(WIDTH, WIDTH)] * 4 * LAYERS + [(WIDTH, VOCAB)]
    shapes = [*ones, *[(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] * LAYERS]
    layers = [
        (torch.randn(TOKENS, i), torch.randn(o, i), torch.randn(TOKENS, o)) for i, o in shapes
    ]

    def step() -> None:
        for x, weight, gradient in layers:
            F.linear(x, weight)
            gradient @ weight
            gradient.T @ x

    with torch.no_grad():
        seconds = interleave(
            {"square": lambda: a @ b, "step": step},
            rounds=10,
            turn=2,
        )
    work = {"square": 2 * SQUARE**3, "step": sum(6 * TOKENS * i * o for i, o in shapes)}
    return {name: work[name] / second / 1e9 for name, second in medians(seconds).items()}


def measure(*, rounds: int, compiled: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    start = GPT(
        GPTConfig(
            vocab_size=VOCAB,
            n_positions=CONTEXT,
            d_model=WIDTH,
            n_heads=HEADS,
            d_ff=4 * WIDTH,
            n_layers=LAYERS,
            dropout=0.0,
            attention_dropout=0.0,
            embedding_dropout=0.0,
        )
    )
    data, ids = read_ids()
    rivals = make_rivals(start, compiled=compiled)
    checked = check(start, rivals, draw_batches(ids, CHECKED))
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in track(range(rounds), "rounds", transient=True):
        batches = draw_batches(ids, TURN)
        for name, rival in rivals.items():
            seconds[name].append(rival.turn(batches) / TURN)
    return {
        "setting": {
            "layers": LAYERS,
            "heads": HEADS,
            "d_model": WIDTH,
            "context": CONTEXT,
            "rows": ROWS,
            "vocabulary": VOCAB,
            "data": data,
            "rounds": rounds,
            "steps a turn": TURN,
            "model flops a step": model_flops(start),
        },
        "losses compared": checked,
        "GFLOP/s of products": measure_products(),
        "median seconds": medians(seconds),
        "ratio to qkv (median of rounds)": ratios(seconds, "qkv"),
        "ratio to qkv, compiled": ratios(seconds, "qkv, compiled") if compiled else {},
        "machine": machine("transformers", "accelerate"),
    }


def report(result: dict[str, Any]) -> None:
    work, speeds = result["setting"]["model flops a step"], result["GFLOP/s of products"]
    peak = speeds["square"]
    rows = []
    for name, second in result["median seconds"].items():
        own = "ratio to qkv" + (", compiled" if "compiled" in name else " (median of rounds)")
        faster = result[own].get(name)
        rows.append(
            {
                "model and loop": name,
                "median ms per step": f"{second * 1e3:.1f}",
                "tokens/s": f"{TOKENS / second:,.0f}",
                "qkv is faster by": f"{faster:.2f}x" if faster else "",
                "GFLOP/s": f"{work / second / 1e9:.0f}",
                "share of the peak": f"{work / second / 1e9 / peak:.0%}",
            }
        )
    show_table(f"training a small GPT, {TOKENS} tokens per step", rows)
    draw(result["median seconds"])
    products = (
        f"Products of float32 matrices, GFLOP/s: {SQUARE} x {SQUARE} {peak:.0f} (the "
        f"peak); those of the step alone, one after another, {speeds['step']:.0f}."
    )
    picture = "![Milliseconds per training step of a small GPT](images/language_model.png)"
    parts = [markdown_table(rows), products, picture, provenance(PATH, result)]
    publish("language_model", "\n\n".join(parts))


def draw(seconds: Mapping[str, float]) -> None:
    figure, axes = new_figure(size=(7, 0.6 + 0.4 * len(seconds)))
    (place,) = axes.flat
    times = {name: second * 1e3 for name, second in seconds.items()}
    colors = ["tab:orange" if name.startswith("qkv") else "tab:blue" for name in times]
    bars = place.barh(list(times), list(times.values()), color=colors)
    place.bar_label(bars, fmt="%.1f", padding=3)
    place.invert_yaxis()
    place.set_xlabel("milliseconds, median over the rounds")
    place.set_xlim(0, 1.1 * max(times.values()))
    place.set_title(
        f"A training step of a small GPT, {TOKENS} tokens: shorter is faster", fontsize=10
    )
    save_figure(figure, IMAGES / "language_model.png")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each rival")
    parser.add_argument(
        "--compiled", action="store_true", help="by torch.compile too (needs a C++ compiler)"
    )
    options = parser.parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        save(PATH, measure(rounds=options.rounds, compiled=options.compiled))
    report(load(PATH))


if __name__ == "__main__":
    main()

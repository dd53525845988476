"""Products of an optimized layer, by rows: ours against PyTorch's with the float32 weights.

A layer of GPT-2 (3,072 x 768) and the output layer of Marian's shape (32,001 x 512). PyTorch
multiplies the same numbers in float32, expanded beforehand.
"""

from typing import Any

import torch
import torch.nn.functional as F
from _common import RESULTS, arguments, load, machine, provenance, publish, save
from rich.progress import track

from qkv.inference.modules import PackedLinear
from qkv.inference.packed import PACKINGS, pack
from qkv.tutorial.measure import interleave, medians
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "products.json"
SHAPES = {"3,072 x 768": (3072, 768), "32,001 x 512": (32_001, 512)}
ROWS = (1, 4, 16, 31, 64, 256)


def measure(shape: tuple[int, int], rows: int, rounds: int) -> dict[str, float]:
    """Return PyTorch's milliseconds, and how many times as fast each packing is."""
    torch.manual_seed(0)
    weight, x = torch.randn(shape), torch.randn(rows, shape[1])
    # int8 in groups is how the embeddings of int4 models are stored.
    layers = {packing: PackedLinear(pack(weight, packing)) for packing in PACKINGS}
    layers["int8 in groups"] = PackedLinear(pack(weight, "int8", groups=True))
    with torch.inference_mode():
        runs: dict[str, Any] = {"PyTorch": lambda: F.linear(x, weight)}
        runs |= {name: lambda layer=layer: layer(x) for name, layer in layers.items()}
        seconds = medians(interleave(runs, rounds=rounds, turn=3))
    base = seconds.pop("PyTorch")
    return {"PyTorch, ms": 1000 * base} | {name: base / own for name, own in seconds.items()}


def report(result: dict[str, Any]) -> None:
    blocks = list[str]()
    for shape, by_rows in result["shapes"].items():
        rows = [
            {"rows of x": rows, "PyTorch, float32": f"{one['PyTorch, ms']:.2f} ms"}
            | {name: f"{ratio:.2f}x" for name, ratio in one.items() if name != "PyTorch, ms"}
            for rows, one in by_rows.items()
        ]
        show_table(shape, rows)
        blocks.append(f"**{shape}**\n\n{markdown_table(rows)}")
    publish("products", "\n\n".join([*blocks, provenance(PATH, result)]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        todo = [(name, rows) for name in SHAPES for rows in ROWS]
        shapes: dict[str, Any] = {name: {} for name in SHAPES}
        for name, rows in track(todo, "measuring"):
            shapes[name][str(rows)] = measure(SHAPES[name], rows, options.rounds)
        save(PATH, {"shapes": shapes, "machine": machine()})
    report(load(PATH))


if __name__ == "__main__":
    main()

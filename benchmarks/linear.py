"""The linear layer of qkv (large products by oneDNN) against torch's (MKL)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _common import RESULTS, arguments, load, machine, provenance, publish, ratios, save

from qkv.attention.linear import linear
from qkv.tutorial.measure import interleave, medians
from qkv.tutorial.tables import markdown_table, show_table

SIZES = [(2208, 256, 256), (2208, 256, 1024), (2208, 1024, 256), (4096, 512, 2048), (64, 256, 256)]
ROUNDS = 15
PATH = RESULTS / "linear.json"
Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def compare(n_rows: int, d_in: int, d_out: int) -> dict:
    torch.manual_seed(0)
    x = torch.randn(n_rows, d_in, requires_grad=True)
    weight = torch.randn(d_out, d_in, requires_grad=True)
    bias = torch.randn(d_out, requires_grad=True)
    gradient = torch.randn(n_rows, d_out)
    ours, theirs = linear(x, weight, bias), F.linear(x, weight, bias)
    assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max(), "not the same product"

    def forward(function: Linear) -> None:
        with torch.no_grad():
            function(x, weight, bias)

    def both(function: Linear) -> None:
        torch.autograd.grad(function(x, weight, bias), (x, weight, bias), gradient)

    result: dict = {"rows": n_rows, "d_in": d_in, "d_out": d_out}
    for name, run in (("forward", forward), ("forward and backward", both)):
        rivals = {"qkv": partial(run, linear), "torch": partial(run, F.linear)}
        seconds = interleave(rivals, rounds=ROUNDS, turn=3, warmup=3, progress=True)
        result[name] = {
            "median seconds": medians(seconds),
            "ratio": ratios(seconds, "qkv")["torch"],
        }
    return result


def report(result: dict) -> None:
    rows = [
        {"rows x in x out": f"{each['rows']} x {each['d_in']} x {each['d_out']}"}
        | {
            f"{name}, faster by": f"{each[name]['ratio']:.2f}x"
            for name in ("forward", "forward and backward")
        }
        for each in result["results"]
    ]
    show_table("qkv's linear layer against torch's", rows)
    publish("linear", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}")


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        save(PATH, {"results": [compare(*size) for size in SIZES], "machine": machine()})
    report(load(PATH))


if __name__ == "__main__":
    main()

"""Try what a processor may claim wrongly: `python -m qkv.inference.check int8|bfloat16|LIBRARY`."""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.inference.packed import PACKINGS, pack
from qkv.inference.products import IN_KERNEL, Int8Matrix, activate


def check_library(path: str) -> None:
    """Compare the products of a compiled kernel with PyTorch's.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    torch.ops.load_library(path)
    for packing in PACKINGS:
        for n, k in ((67, 96), (5, 1024)):
            weight, bias = torch.randn(n, k), torch.randn(n)
            for groups in (False, True):
                matrix = pack(weight, packing, groups=groups)
                if not matrix.weight.is_floating_point():
                    ours = torch.ops.qkv.expand(matrix.weight, matrix.scales)
                    compare(ours, matrix.expand(), 1e-7, f"{packing}, expanded")
                for rows in (1, 3, 16):
                    x = torch.randn(rows, k)
                    theirs = F.linear(x.double(), matrix.expand().double(), bias.double())
                    for name, number in IN_KERNEL.items():
                        tensors = x, matrix.weight, matrix.scales, bias
                        ours = torch.ops.qkv.linear(*tensors, number)
                        expected = activate(theirs, name)
                        compare(ours, expected, 1e-5, f"{packing}, {rows} rows of {k}, {name}")


def check_int8() -> None:
    """Compare oneDNN's product of integers, including the largest, with the product in float64."""
    for n, k in ((67, 96), (5, 1024)):
        integers = torch.randint(-127, 128, (n, k), dtype=torch.int8)
        integers[0] = 127
        scales, x = torch.rand(n), torch.randint(-127, 128, (33, k)).float()
        x[0], x[1] = 127, -127
        x[:, 0] = 127  # so that nothing is rounded
        ours, _ = Int8Matrix(integers, scales)(x, None)
        theirs = x.double() @ (integers.double() * scales[:, None]).T
        compare(ours, theirs, 1e-6, f"{n} x {k}")


def check_bfloat16() -> None:
    """Compare a product in bfloat16 with the product in float64."""
    x, weight = (torch.randn(n, 96).bfloat16() for n in (33, 67))
    compare(F.linear(x, weight), x.double() @ weight.double().T, 1e-2, "bfloat16")


def compare(ours: Tensor, theirs: Tensor, bound: float, what: str) -> None:
    """Compare two products.

    Raises:
        RuntimeError: if they differ by more than the bound.
    """
    off = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))
    if not off < bound:
        raise RuntimeError(f"{what}: off by {off:.1e}")


if __name__ == "__main__":
    torch.manual_seed(0)
    {"int8": check_int8, "bfloat16": check_bfloat16}.get(
        sys.argv[1], lambda: check_library(sys.argv[1])
    )()

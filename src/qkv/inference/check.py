"""Compare a compiled kernel with PyTorch: `python -m qkv.inference.check LIBRARY`."""

import sys

import torch
import torch.nn.functional as F

from qkv.inference.packed import PACKINGS, pack


def check(library: str) -> None:
    """Load the library and compare its products with PyTorch's.

    Raises:
        RuntimeError: if they differ by more than rounding.
    """
    torch.ops.load_library(library)
    torch.manual_seed(0)
    for packing in PACKINGS:
        for n, k in ((67, 96), (5, 1024)):
            weight, bias = torch.randn(n, k), torch.randn(n)
            for groups in (False, True):
                matrix = pack(weight, packing, groups=groups)
                for rows in (1, 3, 16):
                    x = torch.randn(rows, k)
                    ours = torch.ops.qkv.linear(x, matrix.weight, matrix.scales, bias)
                    theirs = F.linear(x.double(), matrix.expand().double(), bias.double())
                    error = float((ours - theirs).abs().max() / theirs.abs().max())
                    if not error < 1e-5:
                        raise RuntimeError(f"{packing}, {rows} rows of {k}: off by {error:.1e}")


if __name__ == "__main__":
    check(sys.argv[1])

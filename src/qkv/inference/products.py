"""Products of many rows with int8 and bfloat16 weights, by oneDNN, where the processor has them."""

import subprocess
import sys
from functools import cache

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor


class Int8Matrix:
    """A matrix of integers, laid out for oneDNN."""

    def __init__(self, integers: Int8[Tensor, "N K"], scales: Float32[Tensor, " N"]):
        self.laid_out = torch.ops.onednn.qlinear_prepack(integers, None)
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int32)


def multiply_int8(
    integers: Float[Tensor, "rows K"], matrix: Int8Matrix
) -> Float32[Tensor, "rows N"]:
    """Return the product of integers from -127 to 127 with the matrix, times its scales."""
    shifted = (integers + 128).to(torch.uint8)
    return torch.ops.onednn.qlinear_pointwise(
        *(shifted, 1.0, 128, matrix.laid_out, matrix.scales, matrix.zeros),
        *(None, 1.0, 0, torch.float32, "none", [], ""),
    )


@cache
def fast_int8() -> bool:
    """Return whether this processor multiplies 8-bit integers, exactly."""
    return torch.cpu._is_vnni_supported() and _runs("int8")


@cache
def fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() and _runs("bfloat16")


def _runs(kind: str) -> bool:
    """Try it in a process of its own: a processor may claim what it cannot run, and dies."""
    command = [sys.executable, "-m", "qkv.inference.check", kind]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0

"""Products of many rows with int8 and bfloat16 weights, by oneDNN, where the processor has them."""

import subprocess
import sys
from functools import cache

import torch
from jaxtyping import Float32, Int8, UInt8
from torch import Tensor

from qkv.inference.build import kernel

OUTLIER = 8  # times the root mean square of a row: beside it, the others would be rounded away
LARGE = 1e16  # squares of larger steps overflow
TINY = torch.finfo(torch.float32).tiny


class Int8Matrix:
    """A matrix of integers, laid out for oneDNN."""

    def __init__(self, integers: Int8[Tensor, "N K"], scales: Float32[Tensor, " N"]):
        self.laid_out = torch.ops.onednn.qlinear_prepack(integers, None)
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int32)

    def __call__(self, integers: UInt8[Tensor, "rows K"]) -> Float32[Tensor, "rows N"]:
        """Multiply rows that `round_rows` made; each is still to be multiplied by its step."""
        return torch.ops.onednn.qlinear_pointwise(
            *(integers, 1.0, 128, self.laid_out, self.scales, self.zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )


def round_rows(
    x: Float32[Tensor, "rows K"],
) -> tuple[UInt8[Tensor, "rows K"], Float32[Tensor, "rows 1"]]:
    """Return round(127 x / max|x|) + 128 of each row, and its step, max|x| / 127.

    The step is -1 for a row with an outlier, or one that is not finite.
    """
    if kernel():
        integers = torch.empty(x.shape, dtype=torch.uint8)
        return integers, torch.ops.qkv.round_rows(x, integers, OUTLIER)
    steps = x.abs().amax(1, keepdim=True) / 127
    usual = (127 * steps).square() <= OUTLIER**2 * x.square().mean(1, keepdim=True)
    usual &= steps < LARGE
    rounded = (x / steps.clamp(min=TINY)).round().where(usual, 0.0)
    return (rounded + 128).to(torch.uint8), steps.where(usual, -1.0)


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
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False

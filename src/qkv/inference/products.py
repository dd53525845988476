"""Products of many rows with int8 and bfloat16 weights, by oneDNN, where the processor has them."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float32, Int8, UInt8
from torch import Tensor

from qkv.errors import StorageError
from qkv.files import write_atomically
from qkv.inference.build import SECONDS, kernel, known_here

OUTLIER = 8  # times the root mean square of a row: rounding would be more than 2 % of its size
FINE = 254  # steps of what rounding leaves: it is at most half a step, 127 of these
EXTREME = 100  # times the mean of the other |x|: beside it, they would be rounded away even so
LARGE, SMALL = 1e18, 1e-18  # squares of larger numbers overflow, those of smaller ones vanish
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
FOUND = {0: "runs", -signal.SIGILL: "dies"}  # by the exit status of the check


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

    The step is -1 for a row with an outlier, or one that is not finite, or tiny.
    """
    if kernel():
        integers = torch.empty(x.shape, dtype=torch.uint8)
        return integers, torch.ops.qkv.round_rows(x, integers, integers[:0], OUTLIER)
    scaled, steps = _in_steps(x, OUTLIER * x.square().mean(1, keepdim=True).sqrt())
    return _shifted(scaled.round()), steps


def round_rows_twice(
    x: Float32[Tensor, "rows K"],
) -> tuple[UInt8[Tensor, "rows K"], UInt8[Tensor, "rows K"], Float32[Tensor, "rows 1"]]:
    """Return what `round_rows` does, and in between what it leaves, in steps of 1 / FINE.

    Together they have 15 bits. The step is -1 for a row with an extreme number, or one that is not
    finite, or tiny.
    """
    if kernel():
        integers, rest = torch.empty(2, *x.shape, dtype=torch.uint8)
        return integers, rest, torch.ops.qkv.round_rows(x, integers, rest, EXTREME)
    sizes = x.abs()
    others = sizes.sum(1, keepdim=True) - sizes.amax(1, keepdim=True)
    scaled, steps = _in_steps(x, EXTREME * others / x.shape[1])
    whole = scaled.round()
    return _shifted(whole), _shifted((FINE * (scaled - whole)).round()), steps


def _in_steps(x: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows divided by their steps, 0 where the step is -1, and the steps."""
    largest = x.abs().amax(1, keepdim=True)
    sized = (largest == 0) | ((largest > SMALL) & (largest < LARGE))
    usual, steps = (largest <= limit) & sized, largest / 127
    return (x / steps.clamp(min=SMALL / 127)).where(usual, 0.0), steps.where(usual, -1.0)


def _shifted(whole: Tensor) -> Tensor:
    return (whole + 128).to(torch.uint8)


@cache
def fast_int8() -> bool:
    """Return whether this processor multiplies 8-bit integers, exactly."""
    return torch.cpu._is_vnni_supported() and _runs("int8")


@cache
def fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() and _runs("bfloat16")


def _runs(kind: str) -> bool:
    """Try it in a process of its own: a processor may claim what it cannot run, and dies.

    What was found is kept for this processor, its flags, and this PyTorch.
    """
    limits = [os.environ.get(name, "") for name in LIMITS]
    here = Path(__file__)
    sources = [x.read_text(encoding="utf-8") for x in (here, here.with_name("check.py"))]
    path = known_here(*sources, *limits, suffix=f".{kind}")
    known = path.read_text(encoding="utf-8") if path.is_file() else ""
    if known not in FOUND.values():
        command = [sys.executable, "-m", "qkv.inference.check", kind]
        try:
            run = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            return False
        if run.returncode not in FOUND:  # wrong numbers, or killed: it is tried again next time
            return False
        known = FOUND[run.returncode]
        with suppress(StorageError):
            write_atomically(path, known)
    return known == FOUND[0]

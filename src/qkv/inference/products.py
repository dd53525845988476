"""Products of many rows by oneDNN, with weights laid out once, where that is fastest."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int8, UInt8
from torch import Tensor

from qkv.blocks.feed_forward import ACTIVATIONS
from qkv.errors import StorageError
from qkv.files import write_atomically
from qkv.inference.build import SECONDS, kernel, known_here, processor

OUTLIER = 12  # times the root mean square of a row: rounding would be more than 3 % of its size
COLUMNS = 32  # at most one in so many is left out
FINE = 254  # steps of what rounding leaves: it is at most half a step, 127 of these
EXTREME = 100  # times the mean of the other |x|: beside it, they would be rounded away even so
LARGE, SMALL = 1e18, 1e-18  # squares of larger numbers overflow, those of smaller ones vanish
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
# Activations by their numbers in the kernel, and by their names, parameters and kinds in oneDNN.
IN_KERNEL = {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}
IN_ONEDNN = {
    "relu": ("relu", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
}
NONE = ("none", [], "")
FOUND = {0: "runs", -signal.SIGILL: "dies"}  # by the exit status of the check


class Int8Matrix:
    """A matrix of integers with a scale per row, laid out for oneDNN."""

    def __init__(self, integers: Int8[Tensor, "N K"], scales: Float32[Tensor, " N"]):
        self.laid_out = torch.ops.onednn.qlinear_prepack(integers, None)
        self.integers, self.scales = integers, scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int32)

    def __call__(
        self,
        x: Float32[Tensor, "rows K"],
        bias: Float32[Tensor, " N"] | None,
        activation: str = "none",
    ) -> tuple[Float32[Tensor, "rows N"], Int[Tensor, " extreme"]]:
        """Multiply rows rounded to 8 bits, and columns with outliers in float32; then activate.

        A row that still has an outlier is multiplied twice: its rounding error is rounded, too.
        Rows that need more than these 15 bits are not computed; their indices are returned.
        """
        columns = large_columns(x)
        integers, steps = round_rows(x, columns)
        y = self._finish(self._product(integers), steps, x, columns, bias, activation)
        outliers = (steps.squeeze(1) < 0).nonzero().squeeze(1)
        if not len(outliers):
            return y, outliers
        chosen = x[outliers]
        integers, rest, steps = round_rows_twice(chosen, columns)
        both = self._product(integers).add_(self._product(rest), alpha=1 / FINE)
        y[outliers] = self._finish(both, steps, chosen, columns, bias, activation)
        return y, outliers[steps.squeeze(1) < 0]

    def _product(self, integers: UInt8[Tensor, "rows K"]) -> Float32[Tensor, "rows N"]:
        """Multiply rows that `round_rows` made; each is still to be multiplied by its step."""
        return torch.ops.onednn.qlinear_pointwise(
            *(integers, 1.0, 128, self.laid_out, self.scales, self.zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )

    def _finish(
        self,
        y: Tensor,
        steps: Tensor,
        x: Tensor,
        columns: Tensor,
        bias: Tensor | None,
        activation: str,
    ) -> Float32[Tensor, "rows N"]:
        """Multiply rows by their steps, add bias and columns that were left out, and activate."""
        if kernel():
            rest = x, columns, self.integers, self.scales, IN_KERNEL[activation]
            torch.ops.qkv.finish_rows(y, steps, x[:0] if bias is None else bias, *rest)
            return y
        weight = self.integers[:, columns].float() * self.scales[:, None]
        return activate(F.linear(x[:, columns], weight, bias).add_(y.mul_(steps)), activation)


class FloatMatrix:
    """A matrix of float32 or bfloat16, laid out for oneDNN."""

    def __init__(self, weight: Float[Tensor, "N K"]):
        self.dtype = weight.dtype
        self.laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(
        self,
        x: Float32[Tensor, "*any K"],
        bias: Float32[Tensor, " N"] | None,
        activation: str = "none",
    ) -> Float32[Tensor, "*any N"]:
        """Multiply x, rounded if the matrix is bfloat16, by the transposed one; then activate."""
        product = torch.ops.mkldnn._linear_pointwise
        if self.dtype != torch.float32:  # with a bias, the sums would be rounded
            y = product(x.to(self.dtype), self.laid_out, None, *NONE).float()
            return activate(y if bias is None else y.add_(bias), activation)
        if activation in IN_ONEDNN:
            return product(x, self.laid_out, bias, *IN_ONEDNN[activation])
        return activate(product(x, self.laid_out, bias, *NONE), activation)


def activate(y: Tensor, activation: str) -> Tensor:
    """Apply an activation of a feed-forward network by its name, or "none"."""
    return y if activation == "none" else ACTIVATIONS[activation](y)


def large_columns(x: Float32[Tensor, "rows K"]) -> Int[Tensor, " columns"]:
    """Return the columns with outliers: those of most rows, at most one in COLUMNS.

    Language models have a few features that are large for many tokens; the rest rounds well without
    them (Dettmers et al. 2022, LLM.int8()).
    """
    if kernel():
        counts = torch.ops.qkv.count_large(x, OUTLIER)
    else:
        counts = (x.abs() > OUTLIER * _size(x)).float().sum(0)
    found, most = counts.nonzero().squeeze(1), x.shape[1] // COLUMNS
    return found if len(found) <= most else counts.topk(most).indices


def round_rows(
    x: Float32[Tensor, "rows K"], columns: Int[Tensor, " columns"]
) -> tuple[UInt8[Tensor, "rows K"], Float32[Tensor, "rows 1"]]:
    """Return round(127 x / max|x|) + 128 of each row, and its step, max|x| / 127.

    The columns count as 0. The step is -1 for a row with an outlier, or one that is not finite, or
    tiny.
    """
    if kernel():
        integers = torch.empty(x.shape, dtype=torch.uint8)
        return integers, torch.ops.qkv.round_rows(x, columns, integers, integers[:0], OUTLIER)
    x = x.index_fill(1, columns, 0)
    scaled, steps = _in_steps(x, OUTLIER * _size(x))
    return _shifted(scaled.round()), steps


def round_rows_twice(
    x: Float32[Tensor, "rows K"], columns: Int[Tensor, " columns"]
) -> tuple[UInt8[Tensor, "rows K"], UInt8[Tensor, "rows K"], Float32[Tensor, "rows 1"]]:
    """Return what `round_rows` does, and in between what it leaves, in steps of 1 / FINE.

    Together they have 15 bits. The step is -1 for a row with an extreme number, or one that is not
    finite, or tiny.
    """
    if kernel():
        integers, rest = torch.empty(2, *x.shape, dtype=torch.uint8)
        return integers, rest, torch.ops.qkv.round_rows(x, columns, integers, rest, EXTREME)
    x = x.index_fill(1, columns, 0)
    sizes = x.abs()
    others = sizes.sum(1, keepdim=True) - sizes.amax(1, keepdim=True)
    scaled, steps = _in_steps(x, EXTREME * others / x.shape[1])
    whole = scaled.round()
    return _shifted(whole), _shifted((FINE * (scaled - whole)).round()), steps


def _size(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True).sqrt()


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
def fast_float32() -> bool:
    """Return whether oneDNN is faster than MKL, whose best code is for Intel's processors."""
    has_both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    return has_both and "AuthenticAMD" in processor()


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

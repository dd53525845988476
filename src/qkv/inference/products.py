"""Products of many rows with oneDNN and prepacked weights, where that is fastest."""

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
COLUMNS = 32  # at most one in this many is left out
FINE = 254  # fine steps per step: the rounding error is at most half a step, 127 of these
EXTREME = 100  # times the mean of the other |x|, which would be rounded away even with 15 bits
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

        For a row that still has an outlier, the rounding error is also rounded and multiplied. Rows
        that need more than these 15 bits are not computed; their indices are returned.
        """
        columns = large_columns(x)
        integers, steps = round_rows(x, columns)
        y = self._product(integers)
        outliers = (steps.squeeze(1) < 0).nonzero().squeeze(1)
        if len(outliers):
            rest = round_rest(x[outliers], columns, steps[outliers])
            y.index_add_(0, outliers, self._product(rest), alpha=1 / FINE)
        y = self._finish(y, steps, x, columns, bias, activation)
        return y, steps.squeeze(1).isnan().nonzero().squeeze(1)

    def _product(self, integers: UInt8[Tensor, "rows K"]) -> Float32[Tensor, "rows N"]:
        """Multiply the rows of `round_rows`; the results still lack the factor |step|."""
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
        """Multiply rows by their |steps|, add the bias and the omitted columns, and activate."""
        if kernel():
            rest = x, columns, self.integers, self.scales, IN_KERNEL[activation]
            torch.ops.qkv.finish_rows(y, steps, x[:0] if bias is None else bias, *rest)
            return y
        weight = self.integers[:, columns].float() * self.scales[:, None]
        return activate(F.linear(x[:, columns], weight, bias).add_(y.mul_(steps.abs())), activation)


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
        """Multiply x, rounded if the matrix is bfloat16, by its transpose; then activate."""
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
    """Return the columns with outliers in the most rows, at most one in COLUMNS.

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

    The columns count as 0. The step is negative for a row with an outlier, and NaN for a row whose
    largest number is extreme, not finite, or tiny.
    """
    if kernel():
        integers = torch.empty(x.shape, dtype=torch.uint8)
        return integers, torch.ops.qkv.round_rows(x, columns, integers, OUTLIER, EXTREME)
    x = x.index_fill(1, columns, 0)
    largest, total = x.abs().amax(1, keepdim=True), x.abs().sum(1, keepdim=True)
    usual = largest <= OUTLIER * _size(x)
    close = largest * x.shape[1] <= EXTREME * (total - largest)
    known = (usual | close) & (largest > SMALL) & (largest < LARGE)
    steps = (largest / 127).where(usual, -largest / 127).where(known, torch.nan)
    steps = steps.where(largest != 0, 0.0)
    return _shifted(_in_steps(x, steps).round()), steps


def round_rest(
    x: Float32[Tensor, "rows K"],
    columns: Int[Tensor, " columns"],
    steps: Float32[Tensor, "rows 1"],
) -> UInt8[Tensor, "rows K"]:
    """Return the error e of `round_rows`, as round(254 e / |step|) + 128: 15 bits in all."""
    if kernel():
        rest = torch.empty(x.shape, dtype=torch.uint8)
        torch.ops.qkv.round_rest(x, columns, steps, rest)
        return rest
    scaled = _in_steps(x.index_fill(1, columns, 0), steps)
    return _shifted((FINE * (scaled - scaled.round())).round())


def _size(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True).sqrt()


def _in_steps(x: Tensor, steps: Tensor) -> Tensor:
    """Divide rows by their |steps|; 0 if a step is 0 or NaN."""
    return (x / steps.abs()).where(steps.abs() > 0, 0.0)


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
    """Test a feature in a separate process, which dies if the processor wrongly claims it.

    The result is cached for this processor, its flags, and this version of PyTorch.
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

"""Matrices of weights in fewer bits: bfloat16, int8 with a scale per row, int4 in groups of 32.

Shapes: N rows (outputs), K columns (inputs), G = K / 32 groups.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from qkv.errors import ConfigError

Packing = Literal["float32", "bfloat16", "int8", "int4"]
PACKINGS: tuple[Packing, ...] = get_args(Packing)
GROUP = 32  # columns that share a scale in the formats of llama.cpp
LARGEST = 127
LEVELS = 15
PIECE = 2**18  # numbers
WIDEST = 2**15  # columns in groups, for which the kernel has room


@dataclass(frozen=True)
class Packed:
    """A stored matrix, and the scales of its integers.

    Args:
        weight: float32, bfloat16 or int8 (N, K); int4: uint8 (N, K / 2), the first half of each
            group in the lower four bits.
        scales: int8: float32 (N,), or float16 (N, G) in groups; int4: float16 (N, 2, G), scales and
            minima; else empty.
    """

    weight: Tensor
    scales: Tensor

    @property
    def n_bytes(self) -> int:
        """The size of weight and scales in bytes."""
        return self.weight.nbytes + self.scales.nbytes

    def __getitem__(self, rows: slice | Tensor) -> "Packed":
        """Return some rows; a slice shares the memory."""
        return Packed(self.weight[rows], self.scales[rows] if len(self.scales) else self.scales)

    def expand(self) -> Float[Tensor, "N K"]:
        """Return the matrix as float32."""
        if self.weight.dtype == torch.uint8:
            low, high = self.weight & LEVELS, self.weight >> 4
            halves = [half.unflatten(1, (-1, GROUP // 2)) for half in (low, high)]
            scale, minimum = self.scales.float()[..., None].unbind(1)  # each (N, G, 1)
            return torch.addcmul(minimum, torch.cat(halves, 2).float(), scale).flatten(1)
        if self.weight.dtype != torch.int8:
            return self.weight.float()
        if self.scales.ndim == 1:
            return self.weight.float() * self.scales[:, None]
        groups = self.weight.float().unflatten(1, (-1, GROUP))
        return (groups * self.scales.float()[..., None]).flatten(1)


def join(parts: list[Packed]) -> Packed:
    """Concatenate the rows of matrices that are stored in the same format."""
    weights, scales = zip(*((one.weight, one.scales) for one in parts), strict=True)
    return Packed(torch.cat(weights), torch.cat(scales))


def pack(matrix: Float[Tensor, "N K"], packing: Packing, *, groups: bool = False) -> Packed:
    """Store a matrix in fewer bits; a matrix that was expanded is packed again without loss.

    int8: round(w / s) with s = max|w| / 127 of each row, or of each group of 32 columns (Q8_0 of
    llama.cpp). int4: round((w - m) / s) with m the minimum of a group and s = (max - min) / 15
    (Q4_1). If 32 does not divide the number of columns, or if there are more than 32,768, integers
    have a scale per row.

    Args:
        matrix: the weights.
        packing: how they are stored.
        groups: whether int8 has a scale per group instead of one per row.

    Raises:
        ConfigError: if a weight is NaN or infinite, or too large for the scales' float16.
    """
    # Some rows at a time, so that intermediate results stay in the processor's cache.
    pieces = matrix.detach().split(max(1, PIECE // max(1, matrix.shape[1])))
    return join([_pack(piece.float(), packing, groups) for piece in pieces])


def _pack(matrix: Float[Tensor, "N K"], packing: Packing, groups: bool) -> Packed:
    if not matrix.isfinite().all():
        raise ConfigError("the weights are not finite; expected numbers: is the file damaged?")
    if packing in ("float32", "bfloat16"):
        dtype = torch.bfloat16 if packing == "bfloat16" else torch.float32
        return Packed(matrix.to(dtype), torch.empty(0))
    whole = matrix.shape[1] % GROUP == 0 and matrix.shape[1] <= WIDEST
    if packing == "int4" and whole:
        return _pack_int4(matrix)
    if groups and whole:
        parts = matrix.unflatten(1, (-1, GROUP))
        scales = _checked((parts.abs().amax(2) / LARGEST).half())
        return Packed(_rounded(parts, scales.float()[..., None]).flatten(1), scales)
    scales = matrix.abs().amax(1) / LARGEST
    return Packed(_rounded(matrix, scales[:, None]), scales)


def from_blocks(kind: str, blocks: UInt8[Tensor, "N n_bytes"]) -> Packed | None:
    """Convert blocks of llama.cpp, each a scale and 32 integers, without changing their values.

    Q4_1 has four bits and a minimum, like our int4; Q4_0 has four bits from -8 on, so its minimum
    is -8 times the scale; Q8_0 is our int8 in groups.

    Returns:
        None for other types, rows that are too wide for the kernel, and scales beyond float16.
    """
    n_bytes = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}.get(kind)
    if n_bytes is None or blocks.shape[1] // n_bytes * GROUP > WIDEST:
        return None
    groups = blocks.contiguous().unflatten(1, (-1, n_bytes))  # (N, G, bytes of a block)
    scales = groups[..., :2].contiguous().view(torch.float16).squeeze(-1)
    if kind == "Q8_0":
        found = Packed(groups[..., 2:].contiguous().view(torch.int8).flatten(1), scales)
    elif kind == "Q4_1":
        minimum = groups[..., 2:4].contiguous().view(torch.float16).squeeze(-1)
        found = Packed(groups[..., 4:].flatten(1), torch.stack((scales, minimum), 1))
    else:
        found = Packed(groups[..., 2:].flatten(1), torch.stack((scales, -8 * scales), 1))
    return found if bool(found.scales.isfinite().all()) else None


def _rounded(x: Tensor, scale: Tensor) -> Tensor:
    """Round x / scale to int8; a scale of zero, of a row of zeros, gives zeros."""
    integers = torch.where(scale > 0, x / scale, 0.0).round()
    return integers.clamp(-LARGEST, LARGEST).to(torch.int8)


def _pack_int4(matrix: Tensor) -> Packed:
    parts = matrix.unflatten(1, (-1, GROUP))
    minimum = parts.amin(2).half()
    scale = ((parts.amax(2) - parts.amin(2)) / LEVELS).half()
    shifted = parts - minimum.float()[..., None]
    levels = torch.where(scale[..., None] > 0, shifted / scale.float()[..., None], 0.0)
    levels = levels.round().clamp(0, LEVELS).to(torch.uint8)
    first, second = levels.chunk(2, 2)
    return Packed((first | second << 4).flatten(1), _checked(torch.stack((scale, minimum), 1)))


def _checked(scales: Tensor) -> Tensor:
    if not scales.isfinite().all():
        raise ConfigError(
            "a weight is too large for groups, whose scales are float16 (at most 65,504); expected "
            'smaller weights, or "int8" with a scale per row'
        )
    return scales

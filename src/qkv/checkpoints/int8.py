"""Weights as 8-bit integers with one scale per row, a quarter of the size of float32.

The file's metadata marks the format. Each matrix is stored as int8, beside its scales: row i of the
matrix is scales[i] times row i of the integers (Dettmers et al. 2022, "LLM.int8()", section 2.1,
vector-wise quantization, https://arxiv.org/abs/2208.07339). Vectors stay as they are.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from qkv.errors import DataError

MARK = {"int8": "rows"}  # in the metadata of the file
SCALES = ".row_scales"  # appended to the name of the matrix
LARGEST = 127


def quantize_rows(
    matrix: Float[Tensor, "rows columns"],
) -> tuple[Int8[Tensor, "rows columns"], Float32[Tensor, " rows"]]:
    """Return a matrix as integers and scales; the error is at most half a scale."""
    scales = matrix.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return (matrix.float() / scales[:, None]).round().to(torch.int8), scales


def expand_rows(
    integers: Int8[Tensor, "rows columns"], scales: Float32[Tensor, " rows"], where: str
) -> Float32[Tensor, "rows columns"]:
    """Return the matrix.

    Raises:
        DataError: the two do not fit each other.
    """
    kinds = integers.dtype, scales.dtype
    fits = integers.ndim == 2 and integers.shape[:1] == scales.shape
    if kinds != (torch.int8, torch.float32) or not fits:
        raise DataError(
            f"{where}: int8 weights of shape {tuple(integers.shape)}, {kinds[0]}, with scales of "
            f"shape {tuple(scales.shape)}, {kinds[1]}; expected int8 (rows, columns) and float32 "
            "(rows,)"
        )
    matrix = integers.float() * scales[:, None]
    if not (scales > 0).all() or not matrix.isfinite().all():
        raise DataError(f"{where}: a scale is not above 0, or too large; expected finite weights")
    return matrix


def quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file whose metadata has `MARK`: matrices as integers and scales.

    Raises:
        DataError: a weight is NaN or infinite.
    """
    stored = dict[str, Tensor]()
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise DataError(f"{broken[0]} has weights that are not finite; expected numbers")
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            stored[name], stored[name + SCALES] = quantize_rows(tensor)
        else:
            stored[name] = tensor.float()
    return stored

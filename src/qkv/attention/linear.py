"""A linear layer that uses the faster of PyTorch's two CPU matmul backends.

PyTorch computes a float32 linear layer with MKL and a convolution with oneDNN, and a linear layer
is a convolution of kernel size 1. oneDNN plans anew at each call but is faster on large products
(measured in docs/performance.md), so those are computed as convolutions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Number of multiplications above which the faster kernel outweighs the planning.
CONVOLUTION_PAYS = 2**26


def linear(
    x: Float[Tensor, "... D_in"],
    weight: Float[Tensor, "D_out D_in"],
    bias: Float[Tensor, " D_out"] | None = None,
) -> Float[Tensor, "... D_out"]:
    """Compute x W^T + b, as `torch.nn.functional.linear` does."""
    if torch.compiler.is_compiling():  # it optimizes F.linear itself; a size test would add a guard
        return F.linear(x, weight, bias)
    large = x.numel() * len(weight) >= CONVOLUTION_PAYS
    if (
        not large
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    rows = _LinearByConvolution.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, input: Float[Tensor, "... D_in"]) -> Float[Tensor, "... D_out"]:
        """Project the last axis."""
        return linear(input, self.weight, self.bias)


class _LinearByConvolution(torch.autograd.Function):
    """A linear layer as a convolution; MKL is faster for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for_x, for_weight, _ = ctx.needs_input_grad  # a frozen layer needs only the first
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        # (rows, D) has the memory layout of an image of rows x 1 pixels in channels-last format.
        image = x.contiguous().view(1, len(x), 1, x.shape[1]).permute(0, 3, 1, 2)
        output = F.conv2d(image, weight[:, :, None, None], bias)
        return output.permute(0, 2, 3, 1).reshape(len(x), len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.T) if for_x else None,
            gradient.T @ x if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )

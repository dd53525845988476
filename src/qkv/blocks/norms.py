"""Normalization of each token's vector: the formulas, and modules that use PyTorch's kernels."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import ConfigError


def layer_norm(
    x: Float[Tensor, "... D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "... D"]:
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba, Kiros and Hinton 2016, eq. 4).

    The variance divides by D, not by D - 1, and eps is inside the square root.
    """
    centred = x - x.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight
    return normed if bias is None else normed + bias


def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float = 1e-5
) -> Float[Tensor, "... D"]:
    """X / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, eq. 4): no mean, no bias."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class LayerNorm(nn.Module):
    """`layer_norm` with its parameters, computed by PyTorch's kernel.

    Raises:
        ConfigError: if eps is not a finite number above 0, so that the norm could be NaN.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.eps = _checked(eps)
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalize each vector."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """`rms_norm` with its parameter, computed by PyTorch's kernel.

    Raises:
        ConfigError: if eps is not a finite number above 0, so that the norm could be NaN.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5):
        super().__init__()
        self.eps = _checked(eps)
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalize each vector."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _checked(eps: float) -> float:
    if not 0 < eps < math.inf:
        raise ConfigError(f"eps = {eps} in a norm; expected a finite number above 0, such as 1e-5")
    return eps


def make_norm(kind: Literal["layer", "rms"], d_model: int, *, eps: float, bias: bool) -> nn.Module:
    """Build the norm for a config."""
    if kind == "rms":
        return RMSNorm(d_model, eps=eps)
    return LayerNorm(d_model, eps=eps, bias=bias)

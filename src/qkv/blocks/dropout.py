"""Dropout (Srivastava et al. 2014), with random bits that are fast to generate on a CPU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def dropout(x: Float[Tensor, "..."], p: float) -> Float[Tensor, "..."]:
    """Zero each element of x with probability p and scale the rest to keep the expectation.

    On a CPU, PyTorch draws one number per element, which costs more than a layer norm. Here four
    elements share one 64-bit number, 16 bits each: p is rounded to a multiple of 1 / 65536, and the
    scale is exact for the rounded p.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    threshold = round(p * 2**16)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    lanes = draws.view(torch.int16)[: x.numel()].view(x.shape)
    keep = (lanes >= threshold - 2**15).to(x.dtype)
    return x * keep.mul_(1 / (1 - threshold / 2**16))


class Dropout(nn.Module):
    """`dropout` in training, the identity in evaluation."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply dropout in training."""
        return dropout(x, self.p) if self.training and self.p else x

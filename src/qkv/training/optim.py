"""AdamW, and schedules: functions from the step (from 1) to a factor of the learning rate."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from qkv.errors import ConfigError

Schedule = Callable[[int], float]

# Devices on which torch fuses AdamW into one kernel for all parameters.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def noam(d_model: int, warmup: int) -> Schedule:
    """The learning rate of Vaswani et al. (2017), equation 3: use it with `learning_rate=1.0`.

    It rises linearly for `warmup` steps, then decays with the inverse square root of the step.

    Raises:
        ConfigError: `warmup` is less than one step.
    """
    if warmup < 1:
        raise ConfigError(f"warmup is {warmup} steps; noam divides by it, expected at least 1")
    return lambda step: d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def linear_decay(warmup: int, steps: int) -> Schedule:
    """Linear warm-up to 1 at step `warmup`, then linear decay to 0 at step `steps`.

    Raises:
        ConfigError: the warm-up is not shorter than the training.
    """
    _check(warmup, steps)
    return lambda step: _warm(step, warmup) * (1 - _progress(step, warmup, steps))


def cosine_decay(warmup: int, steps: int, floor: float = 0.0) -> Schedule:
    """Linear warm-up to 1 at step `warmup`, then half a cosine down to `floor` at step `steps`.

    Loshchilov and Hutter (2017), equation 5, without restarts.

    Raises:
        ConfigError: the warm-up is not shorter than the training.
    """
    _check(warmup, steps)

    def factor(step: int) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * _progress(step, warmup, steps)))
        return _warm(step, warmup) * (floor + (1 - floor) * wave)

    return factor


def constant_rate(warmup: int = 0) -> Schedule:
    """Linear warm-up to 1 at step `warmup`, then constant."""
    return lambda step: _warm(step, warmup)


def _check(warmup: int, steps: int) -> None:
    if not 0 <= warmup < steps:
        raise ConfigError(
            f"warmup is {warmup} of {steps} steps; expected 0 <= warmup < steps, or the rate never "
            "falls (are the two in the same unit, both steps and not epochs?)"
        )


def _warm(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, warmup: int, steps: int) -> float:
    return min(1.0, max(0, step - warmup) / (steps - warmup))


def adamw(
    model: nn.Module,
    *,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with weight decay on matrices only.

    Frozen parameters are left out. The defaults of `betas` and `eps` are those of Vaswani et al.
    (2017), section 5.3.
    """
    groups = decay_groups(model, weight_decay)
    return fused_adamw(groups, learning_rate=learning_rate, betas=betas, eps=eps)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters that train into a group with weight decay and one without.

    Embeddings, norms and biases are not decayed: shrinking them does not make the function
    smoother. A matrix tied to an embedding counts as an embedding.
    """
    embeddings = {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    decayed, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (decayed if p.ndim >= 2 and id(p) not in embeddings else others).append(p)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def fused_adamw(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """AdamW over parameter groups, fused into one kernel where the device supports it.

    Args:
        groups: parameter groups as in `torch.optim`; their own options take precedence.
        learning_rate: learning rate of the groups without an "lr".
        betas: decay rates of the two moments.
        eps: added to the square root of the second moment.
    """
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in FUSED_DEVICES for p in parameters)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused)

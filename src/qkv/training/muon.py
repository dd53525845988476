"""Muon for the matrices of a stack of blocks, AdamW for all other parameters.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.training.optim import decay_groups, fused_adamw


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers as one, whose parameter groups are those of both, Muon's first.

    Muon: B = 0.95 B + G, and W changes by the orthogonalized G + 0.95 B (five Newton-Schulz steps).
    An update has the size of AdamW's, so one rate serves both: 0.2 sqrt(max(rows, columns)) times
    the rate (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).

    Args:
        muon: optimizer of the hidden matrices.
        adamw: optimizer of all other parameters.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the loss of `closure`, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that train of linear layers in stacks of blocks.

    Embeddings, output layers and tables of positions are excluded.
    """
    layers = {
        layer
        for stack in model.modules()
        if isinstance(stack, Stack)
        for layer in stack.modules()
        if isinstance(layer, nn.Linear)
    }
    weights = {id(layer.weight) for layer in layers if layer.weight.requires_grad}
    return [p for p in model.parameters() if id(p) in weights]


def muon(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
) -> MuonWithAdamW:
    """Create the optimizer; matrices of both parts decay, and frozen parameters are omitted.

    Args:
        model: model with at least one `Stack` of blocks.
        learning_rate: learning rate of both parts.
        betas: coefficients of AdamW.
        eps: epsilon of AdamW.
        weight_decay: weight decay of matrices.

    Raises:
        ConfigError: no matrix of a stack of blocks trains.
    """
    hidden = hidden_matrices(model)
    if not hidden:
        raise ConfigError(
            f'training.optimizer = "muon", but no linear layer in a stack of blocks of this '
            f"{type(model).__name__} trains; expected adamw (are all of them frozen, as with LoRA, "
            "or is this a recurrent network?)"
        )
    chosen = {id(p) for p in hidden}
    groups = [
        {**group, "params": [p for p in group["params"] if id(p) not in chosen]}
        for group in decay_groups(model, weight_decay)
    ]
    return MuonWithAdamW(
        torch.optim.Muon(
            hidden,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        fused_adamw(groups, learning_rate=learning_rate, betas=betas, eps=eps),
    )

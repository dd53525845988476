"""Fine-tuning: which parameters train, and at which learning rate.

A model's parameters form groups from bottom to top: the embedding, the layers, the head. Everything
above the layers belongs to the head, including BERT's pooler; a norm after the last block belongs
to the last layer. A tied parameter belongs to the lowest group that contains it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.models.heads import ModelWithHead
from qkv.models.rnn import RNNSeq2Seq
from qkv.training import ranks
from qkv.training.optim import decay_groups, fused_adamw
from qkv.training.run import Callback, Run

EMBEDDING, HEAD = "embedding", "head"
ABOVE = ("head.", "pooler.")  # modules above the layers of a model that is not a `ModelWithHead`


@dataclass(frozen=True)
class LayerGroup:
    """Parameters at the same height of a model.

    Args:
        name: "embedding", "layer 0", ..., "head"; with two stacks "encoder layer 0", ...
        parameters: without duplicates.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]


def layer_groups(model: nn.Module) -> list[LayerGroup]:
    """Split all parameters into groups, from bottom to top; a decoder is above its encoder.

    A language model whose output layer is tied to its embedding has no head group.

    Raises:
        ConfigError: the layers of the model are unknown.
    """
    prefix, body = ("encoder.", model.encoder) if isinstance(model, ModelWithHead) else ("", model)
    layers = _layers(body)
    names = [EMBEDDING, *layers, HEAD]

    def height(name: str) -> int:
        if not name.startswith(prefix) or name.removeprefix(prefix).startswith(ABOVE):
            return len(names) - 1
        for i, parts in enumerate(layers.values(), start=1):
            if name.removeprefix(prefix).startswith(parts):
                return i
        return 0

    heights: dict[nn.Parameter, int] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        heights[p] = min(heights.get(p, len(names)), height(name))
    groups = [
        LayerGroup(name, tuple(p for p, at in heights.items() if at == i))
        for i, name in enumerate(names)
    ]
    return [group for group in groups if group.parameters]


def _layers(body: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the names of the layers and the prefixes of their parameters' names."""
    if isinstance(body, RNNSeq2Seq):
        return {"encoder": ("encoder.",), "decoder": ("bridge.", "decoder.")}
    stacks = {name: module for name, module in body.named_modules() if isinstance(module, Stack)}
    layers: dict[str, tuple[str, ...]] = {}
    for name, stack in stacks.items():
        kind = "layer" if len(stacks) == 1 else f"{name} layer"
        for i in range(len(stack.blocks)):
            layers[f"{kind} {i}"] = (f"{name}.blocks.{i}.",)
        layers[f"{kind} {len(stack.blocks) - 1}"] += (f"{name}.norm.",)
    if not layers:
        raise ConfigError(
            f"{type(body).__name__} has no layers that can be told apart; expected a model with a "
            "Stack of blocks, or an RNNSeq2Seq. `everything` needs no layers"
        )
    return layers


def train_only(model: nn.Module, groups: Iterable[LayerGroup]) -> None:
    """Train these groups and freeze the rest; make the optimizer afterwards.

    Autograd stops at the lowest parameter that trains: everything below costs a forward pass, but
    no memory for its activations.
    """
    model.requires_grad_(False)
    for group in groups:
        for p in group.parameters:
            p.requires_grad_(True)


def head_only(model: nn.Module) -> None:
    """Train only the head, on frozen features.

    Raises:
        ConfigError: the model has no head, or its head is tied to the embedding.
    """
    head = [group for group in layer_groups(model) if group.name == HEAD]
    if not head:
        raise ConfigError(
            f"this {type(model).__name__} has no parameter in its head alone: it was taken off, or "
            "it is the embedding (tied_output); put a head of qkv.models.heads on it, or train "
            "top_layers"
        )
    train_only(model, head)


def top_layers(model: nn.Module, n: int) -> None:
    """Train the head and the n layers below it.

    Raises:
        ConfigError: the model has fewer layers.
    """
    groups = layer_groups(model)
    layers = [group for group in groups if group.name not in (EMBEDDING, HEAD)]
    if not 0 <= n <= len(layers):
        raise ConfigError(
            f"n_layers = {n}, but this {type(model).__name__} has "
            f"{len(layers)}; the embedding trains with `everything` only"
        )
    head = [group for group in groups if group.name == HEAD]
    train_only(model, [*layers[len(layers) - n :], *head])


def everything(model: nn.Module) -> None:
    """Train all parameters."""
    model.requires_grad_(True)


def layerwise_adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    layer_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """`adamw` with a learning rate that decreases from the top layer to the bottom.

    Discriminative fine-tuning (Howard and Ruder 2018, section 3.2): rate of group l - 1 =
    layer_decay * rate of group l. The paper uses 1 / 2.6 for three LSTM layers; over the 12 layers
    of BERT this would leave the embedding 1 / 248,000 of the rate: Sun et al. (2019) use 0.95.

    Args:
        model: frozen parameters are left out, but their groups count as layers.
        learning_rate: learning rate of the top group, which is the optimizer's first.
        layer_decay: above 0; 1 gives all groups the same learning rate.
        betas: as in `adamw`.
        eps: as in `adamw`.
        weight_decay: as in `adamw`.

    Raises:
        ConfigError: layer_decay is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(
            f"layer_decay = {layer_decay}; expected above 0 and at most 1: the rate of a group "
            "divided by that of the group above it (1 / 2.6, not 2.6)"
        )
    split = decay_groups(model, weight_decay)
    groups = []
    for depth, layer in enumerate(reversed(layer_groups(model))):
        members, rate = set(layer.parameters), learning_rate * layer_decay**depth
        for group in split:
            if parameters := [p for p in group["params"] if p in members]:
                groups.append({**group, "params": parameters, "lr": rate, "name": layer.name})
    return fused_adamw(groups, learning_rate=learning_rate, betas=betas, eps=eps)


class GradualUnfreezing(Callback):
    """Train the top group first, and unfreeze the next one every `every` steps.

    Howard and Ruder 2018, section 3.3, where `every` is an epoch. The frozen groups depend on the
    step alone, so a resumed run needs no state. The optimizer holds all groups from the start:
    AdamW skips parameters without a gradient, including their weight decay and state. Parameters
    that were frozen before the run stay frozen.

    Args:
        every: steps per group.

    Raises:
        ConfigError: `every` is below 1; in `begin`, if the optimizer lacks parameters to unfreeze,
            or several processes train, because gradients are summed only for parameters that train
            throughout.
    """

    def __init__(self, every: int):
        if every < 1:
            raise ConfigError(f"every = {every} steps; expected at least 1 before the next group")
        self.every = every
        self.groups: list[list[nn.Parameter]] = []  # from the top

    def begin(self, run: Run) -> None:
        """Collect the parameters that train in the end."""
        if ranks.n_ranks() > 1:
            raise ConfigError(
                f"gradual unfreezing in {ranks.n_ranks()} processes; expected one process, or "
                "another way to fine-tune: their gradients are summed for a fixed set of parameters"
            )
        groups = [[p for p in g.parameters if p.requires_grad] for g in layer_groups(run.model)]
        self.groups = [group for group in reversed(groups) if group]
        held = {p for group in run.optimizer.param_groups for p in group["params"]}
        wanted = [p for group in self.groups for p in group]
        if missing := sum(p not in held for p in wanted):
            raise ConfigError(
                f"the optimizer lacks {missing} of the {len(wanted)} parameters that are to be "
                "unfrozen; make it while all of them train, for it leaves out what is frozen"
            )

    def before_step(self, run: Run) -> None:
        """Freeze and unfreeze groups according to the step."""
        self._unfreeze(1 + run.step // self.every)

    def close(self) -> None:
        """Unfreeze all groups."""
        self._unfreeze(len(self.groups))

    def _unfreeze(self, n_groups: int) -> None:
        for i, group in enumerate(self.groups):
            for p in group:
                p.requires_grad_(i < n_groups)

"""Describe a training run before it starts: what trains, and how much memory it needs."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from qkv.blocks.block import Residual
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.training.finetune import EMBEDDING, HEAD, layer_groups
from qkv.training.run import random_state, set_random_state

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of a training run at its peak, when the backward pass begins.

    Args:
        weights: parameters and buffers.
        copies: the last good weights, the best so far, and the moving average, if they are kept.
        gradients: gradients of the parameters that train.
        optimizer: two moments of each parameter that trains, and a step counter.
        activations: what the blocks keep for the backward pass; None if there are no blocks.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int | None

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) or 0 for field in fields(self))


def describe_training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rows: int,
    length: int,
    best: bool = False,
    average: bool = False,
) -> dict[str, Rows]:
    """Describe what trains and how much memory it needs, as tables of text by title.

    Args:
        model: on its device, with the frozen parameters frozen.
        optimizer: its learning rates are those before the schedule's factor.
        rows: examples per batch.
        length: tokens per example, padding included.
        best: whether the best weights so far are kept.
        average: whether there is a moving average.

    Raises:
        ConfigError: the model's layers or the optimizer's memory are unknown.
    """
    memory = training_memory(model, optimizer, rows=rows, length=length, best=best, average=average)
    needs = {
        "weights": memory.weights,
        "copies of them": memory.copies,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations, about": memory.activations,
        "all": memory.total,
    }
    return {
        "what trains": _describe_groups(model, optimizer),
        f"memory expected, {rows} rows of {length} tokens": [
            {"what": what, "size": "not estimated" if n is None else f"{n / 10**6:,.2f} MB"}
            for what, n in needs.items()
        ],
    }


def _describe_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> Rows:
    groups = [(group.name, group.parameters) for group in reversed(layer_groups(model))]
    everything = [p for _, parameters in groups for p in parameters]
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    n_all = _count(everything)
    table = []
    for name, parameters in [*groups, ("all", everything)]:
        trained = [p for p in parameters if p.requires_grad and p in rates]
        used = sorted(rates[p] for p in trained)
        ends = dict.fromkeys(f"{rate:.3g}" for rate in (*used[:1], *used[-1:]))
        row = {
            "group": name,
            "parameters": f"{_count(parameters):,}",
            "trained": f"{_count(trained):,}",
            "share of all": f"{_count(trained) / n_all:.2%}",
            "learning rate": " to ".join(ends),
        }
        table.append(row)
    return table


def training_memory(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rows: int,
    length: int,
    best: bool = False,
    average: bool = False,
) -> TrainingMemory:
    """Count the bytes of a training run; all but the activations are exact.

    Parameters that train count even if the loss does not depend on them.

    Args:
        model: on its device, with the frozen parameters frozen.
        optimizer: AdamW or Adam.
        rows: examples per batch.
        length: tokens per example, padding included.
        best: whether the best weights so far are kept.
        average: whether there is a moving average.

    Raises:
        ConfigError: the optimizer is neither AdamW nor Adam.
    """
    return TrainingMemory(
        weights=_bytes([*model.parameters(), *model.buffers()]),
        copies=copies_memory(model, best=best, average=average),
        gradients=_bytes(_trained(model)),
        optimizer=optimizer_memory(model, optimizer),
        activations=activation_memory(model, rows=rows, length=length),
    )


def copies_memory(model: nn.Module, *, best: bool, average: bool) -> int:
    """Count the bytes of the copies of the weights that a training run keeps.

    The last good weights are a copy of everything; the best weights omit frozen parameters, and a
    moving average also omits the buffers.

    Args:
        model: with the frozen parameters frozen.
        best: whether the best weights so far are kept.
        average: whether there is a moving average.
    """
    trained, buffers = _bytes(_trained(model)), _bytes(model.buffers())
    copies = _bytes(model.parameters()) + buffers
    if best:
        copies += trained + buffers
    if average:
        copies += trained
    return copies


def optimizer_memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes that AdamW will hold for the parameters that train.

    Raises:
        ConfigError: the optimizer is neither AdamW nor Adam.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise ConfigError(
            f"the memory of {type(optimizer).__name__} is unknown; expected AdamW or Adam"
        )
    held = {p for group in optimizer.param_groups for p in group["params"]}
    stepping = [p for p in _trained(model) if p in held]
    return 2 * _bytes(stepping) + torch.float32.itemsize * len(stepping)


def activation_memory(model: nn.Module, *, rows: int, length: int) -> int | None:
    """Measure the bytes that the blocks keep from the forward to the backward pass.

    Each block that trains runs on one row and on two: what autograd keeps grows linearly with the
    rows. Nothing is kept below the lowest parameter that trains. A stack that recomputes its
    activations keeps the input of each block, and everything of one block at a time.

    Not included: the embedding, the head (with a vocabulary, its gradient once more, and the logits
    of `losses.LOGITS_PER_CHUNK`), and small tensors; with three layers, they are less than a tenth.
    In 16 bits, less is kept than in the 32 bits of the weights.

    Args:
        model: on its device, with the frozen parameters frozen.
        rows: examples per batch.
        length: tokens per example, padding included; the same for source and target.

    Returns:
        None for a model without blocks.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    blocks = iter([(block, stack.recompute) for stack in stacks for block in stack.blocks])
    if not stacks:
        return None
    kept, again, trains = 0, 0, False
    for group in layer_groups(model):
        below, trains = trains, trains or any(p.requires_grad for p in group.parameters)
        if group.name in (EMBEDDING, HEAD):
            continue
        block, recomputes = next(blocks)
        if trains:
            one, two = (_kept_bytes(block, n, length, below=below) for n in (1, 2))
            inside = one + (two - one) * (rows - 1)
            if recomputes:
                again, inside = max(again, inside), _input_of(block, rows, length).nbytes
            kept += inside
    return kept + again


def _kept_bytes(block: nn.Module, rows: int, length: int, *, below: bool) -> int:
    """Return the bytes that a forward pass keeps; `below`: whether anything below it trains."""
    x = _input_of(block, rows, length).requires_grad_(below)
    reads_memory = getattr(block, "cross_attention", None) is not None
    memory = _input_of(block, rows, length).requires_grad_(below) if reads_memory else None
    others = [*block.parameters(), *block.buffers(), *([memory] if memory is not None else [])]
    known = {tensor.untyped_storage().data_ptr() for tensor in others}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, or the next could have the same address
        return tensor

    state, was_training = random_state(x.device), block.training
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        block.train()(x, memory)
    block.train(was_training)
    set_random_state(state, x.device)
    return sum(storage.nbytes() for storage in kept.values())


def _input_of(block: nn.Module, rows: int, length: int) -> torch.Tensor:
    norm = next(module.norm for module in block.modules() if isinstance(module, Residual))
    weight = norm.get_parameter("weight")
    return weight.new_zeros(rows, length, weight.numel())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

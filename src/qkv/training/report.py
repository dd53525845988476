"""What a training run is going to do, said before it starts: what trains, and what it needs.

Shapes: a batch has R rows of L tokens, padding included.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.block import Residual
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import RMSNorm
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.models.lora import LoRALinear
from qkv.training.finetune import EMBEDDING, HEAD, layer_groups

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of a training run at its fullest, when backward begins.

    Args:
        weights: parameters and buffers.
        copies: of the weights: the loop keeps the last that were good.
        gradients: of the parameters that train.
        optimizer: its two averages of each, and a step's number.
        activations: of the blocks, kept for backward; an estimate, None where there are no blocks.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int | None

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, field.name) or 0 for field in fields(self))


def describe_training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rows: int,
    length: int,
    copies: int = 1,
) -> dict[str, Rows]:
    """Describe what trains and the memory that it needs: tables by their titles, cells of text.

    Args:
        model: on its device, with what is frozen frozen.
        optimizer: made for it; its rates are those before the schedule's factor.
        rows: of a batch.
        length: of its rows, padding included.
        copies: of the weights; see `training_memory`.

    Raises:
        ConfigError: the model's layers or the optimizer's memory are not known.
    """
    memory = training_memory(model, optimizer, rows=rows, length=length, copies=copies)
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
    copies: int = 1,
) -> TrainingMemory:
    """Count the bytes of a training run; all but the activations are exact.

    A parameter counts that trains and that no loss reaches, too.

    Args:
        model: on its device, with what is frozen frozen.
        optimizer: AdamW or Adam.
        rows: of a batch.
        length: of its rows, padding included.
        copies: of the weights: the loop's own, a moving average, the best so far.

    Raises:
        ConfigError: the optimizer is another one.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise ConfigError(
            f"the memory of {type(optimizer).__name__} is not known; expected AdamW or Adam"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    held = {p for group in optimizer.param_groups for p in group["params"]}
    weights = _bytes([*model.parameters(), *model.buffers()])
    stepping = [p for p in trained if p in held]
    return TrainingMemory(
        weights=weights,
        copies=copies * weights,
        gradients=_bytes(trained),
        optimizer=2 * _bytes(stepping) + torch.float32.itemsize * len(stepping),
        activations=activation_memory(model, rows=rows, length=length),
    )


def activation_memory(model: nn.Module, *, rows: int, length: int) -> int | None:
    """Estimate the bytes that the blocks keep from forward to backward.

    Autograd keeps nothing below the lowest parameter that trains, so blocks below it do not count.
    A block keeps, of each token (compare Korthikanti et al. 2022, section 4.1):

        attention       its input, queries, keys, values and heads; 3 H L weights, if they are
                        dropped and the device is a CPU; else H L, if a bias is learned (T5)
        feed-forward    its input and 2 d_ff numbers; d_ff after a ReLU, 4 d_ff with a gate;
                        d_ff more if they are dropped, after a ReLU 2 d_ff
        each residual   the norm's input (RMS: twice), and what was dropped, if something is

    Where a stack computes its blocks again, each keeps its input only, and one at a time the rest.

    In BERT that is 8 d_model + 2 d_ff, and 2 d_model for the dropout. It is too much in 16 bits and
    where matrices above the lowest are frozen, whose inputs are not kept (LoRA: up to 1.4 times).
    It leaves out the embedding, the head (that of a vocabulary needs its gradient once more, and
    the logits of `losses.LOGITS_PER_CHUNK`) and small things: a tenth with three layers, less with
    more.

    Args:
        model: on its device, with what is frozen frozen.
        rows: R.
        length: L; of source and target alike, where there are two.

    Returns:
        None for a model without blocks.
    """
    blocks = [
        (block, stack.recompute)
        for stack in model.modules()
        if isinstance(stack, Stack)
        for block in stack.blocks
    ]
    if not blocks:
        return None
    kept, again, trains = 0, 0, False
    layers = iter(blocks)
    for group in layer_groups(model):
        trains = trains or any(p.requires_grad for p in group.parameters)
        if group.name not in (EMBEDDING, HEAD):
            block, recomputed = next(layers)
            inside = trains * sum(_kept(module, length) for module in block.modules())
            if recomputed:
                again = max(again, inside)
                inside = trains * _stream(block)
            kept += inside
    return rows * length * (kept + again) * next(blocks[0][0].parameters()).element_size()


def _kept(module: nn.Module, length: int) -> int:
    """Numbers that a module of a block keeps, of each token."""
    match module:
        case MultiHeadAttention():
            d_model, d_queries = _width(module.query)
            stored = module.dropout and next(module.parameters()).device.type == "cpu"
            n_weights = 3 if stored else int(module.position_bias is not None)
            weights = n_weights * module.n_heads * length
            return d_model + 2 * d_queries + 2 * _width(module.key)[1] + weights
        case FeedForward():
            d_model, d_ff = _width(module.up)
            dropped = module.dropout > 0
            if module.kind == "relu":
                return d_model + d_ff * (1 + 2 * dropped)
            return d_model + d_ff * ((2 if module.gate is None else 4) + dropped)
        case Residual():
            d_model = module.norm.get_parameter("weight").numel()
            return d_model * (1 + isinstance(module.norm, RMSNorm) + (module.dropout.p > 0))
    return 0


def _stream(block: nn.Module) -> int:
    """d_model: what goes from block to block, of each token."""
    return next(
        m.norm.get_parameter("weight").numel() for m in block.modules() if isinstance(m, Residual)
    )


def _width(layer: nn.Module) -> tuple[int, int]:
    """The widths of a linear layer's input and output, LoRA or not."""
    layer = cast(nn.Linear, layer.base if isinstance(layer, LoRALinear) else layer)
    return layer.in_features, layer.out_features


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)

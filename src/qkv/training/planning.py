"""Plan a training run without running it: the memory of one process by part, and the arithmetic.

A step is simulated with tensors that have a shape but no data (torch's fake tensors). Each tensor
counts from the operation that creates it until its last reference is gone.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.stack import Stack
from qkv.training.finetune import layer_groups
from qkv.training.loop import recompute_activations
from qkv.training.report import copies_memory, optimizer_memory
from qkv.training.settings import Training

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """Bytes of one process at the peak of its training.

    Args:
        weights: parameters and buffers, in float32 whatever the precision of the activations.
        copies: the last good weights, the best so far, and the moving average, if there is one.
        gradients: gradients of the parameters that train.
        optimizer: two moments of each parameter that trains, and a step counter.
        exchange: with several processes, the buffers of the gradient exchange (DDP), or the blocks
            that are gathered at the same time (FSDP2).
        activations: activations, logits and temporary tensors at the peak of a step, beyond the
            gradients, which replace activations that the backward pass has used.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    exchange: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def plan_memory(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    loss: Loss,
    settings: Training,
    *,
    n_processes: int = 1,
    step: "StepMemory | None" = None,
) -> PlannedMemory:
    """Plan the memory of one process of a training run.

    Args:
        model: with the frozen parameters frozen; its tensors may be on the meta device.
        optimizer: AdamW or Adam.
        batch: the largest batch, before it is divided among processes.
        loss: (model, batch) to the sum of the losses of the batch's targets.
        settings: training settings; precision, sharding, accumulate, recompute, ema and
            average_last have an effect.
        n_processes: number of processes, which divide the rows.
        step: result of `step_memory` for the share of a process, which does not depend on the
            sharding.

    Raises:
        ConfigError: the optimizer is neither AdamW nor Adam.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    weights, gradients = _bytes([*model.parameters(), *model.buffers()]), _bytes(trained)
    best, average = settings.average_last == 1, settings.ema is not None
    copies = copies_memory(model, best=best, average=average)
    sharded = settings.sharding == "fsdp2" and n_processes > 1
    parts = n_processes if sharded else 1
    step = step or step_memory(model, batch.take(slice(0, None, n_processes)), loss, settings)
    peak = step.peak(parts, before=settings.accumulate > 1)
    own = -(-gradients // parts)
    if average:  # an evaluation stores the weights beside their average
        peak = max(peak, 2 * own)
    whole = _whole_at_once(model) if sharded else gradients * (n_processes > 1)
    return PlannedMemory(
        weights=-(-weights // parts),
        copies=-(-copies // parts),
        gradients=own,
        optimizer=-(-optimizer_memory(model, optimizer) // parts),
        exchange=whole,
        activations=max(0, peak - own),
    )


@dataclass(frozen=True)
class StepMemory:
    """The memory that a step needs besides the weights, as its gradients become complete.

    Args:
        phases: bytes of the complete gradients, and the peak of all other tensors in this phase.
    """

    phases: Sequence[tuple[int, int]]

    def peak(self, parts: int = 1, *, before: bool = False) -> int:
        """Return the peak of a process in bytes.

        Args:
            parts: number of parts of each gradient, of which the process keeps one.
            before: whether gradients of earlier batches exist from the start.
        """
        every = self.phases[-1][0]
        return max(-(-(every if before else done) // parts) + rest for done, rest in self.phases)


def step_memory(model: nn.Module, batch: Any, loss: Loss, settings: Training) -> StepMemory:
    """Return the memory of a forward and a backward pass.

    Args:
        model: the model, of which only a copy without data runs.
        batch: batch of one process; its tensors are real, since masks and indices decide sizes.
        loss: (model, batch) to the sum of the losses.
        settings: training settings; precision and recompute have an effect.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    outline = _outline(model, mode).train()
    if settings.recompute:
        recompute_activations(outline)
    counter = _LiveBytes(mode, [*outline.parameters(), *outline.buffers()])

    def release(parameter: Tensor) -> None:
        n_bytes = 0 if parameter.grad is None else parameter.grad.nbytes
        parameter.grad = None
        counter.begin_phase(n_bytes)

    for parameter in outline.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(release)
    dtype = getattr(torch, settings.precision)
    with counter, torch.enable_grad():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            total = loss(outline, batch)
        total.backward()
    return StepMemory([*counter.phases, (counter.done, counter.peak)])


class _LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that exist, and their peak.

    Operations on real tensors alone, such as those on token ids and masks, are computed: the values
    that the model checks or counts are then known. All others know shapes only.
    """

    def __init__(self, mode: FakeTensorMode, known: Iterable[Tensor]):
        super().__init__()
        self.mode = mode
        self.now = self.peak = self.done = 0
        self.phases: list[tuple[int, int]] = []
        self.storages: dict[int, Any] = {id(one.untyped_storage()): None for one in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.empty.memory_format:  # to be filled with random numbers
            with self.mode:
                made = func(*args, **(kwargs or {}))
        else:
            made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self._watch(one.untyped_storage())
        return made

    def begin_phase(self, n_bytes: int) -> None:
        """Begin the phase after a gradient of `n_bytes` bytes has become complete."""
        self.phases.append((self.done, self.peak))
        self.done += n_bytes
        self.peak = self.now

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = id(storage), storage.nbytes()
        if key in self.storages:
            return

        def gone(_: Any) -> None:
            del self.storages[key]
            self.now -= n_bytes

        self.storages[key] = weakref.ref(storage, gone)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)


def _outline(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Copy a model with parameters and buffers that have no data; tied ones stay tied."""
    memo: dict[int, Any] = {}
    with mode:
        for one in [*model.parameters(), *model.buffers()]:
            fake = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype)
            is_parameter = isinstance(one, nn.Parameter)
            memo[id(one)] = nn.Parameter(fake, one.requires_grad) if is_parameter else fake
    return copy.deepcopy(model, memo)


def _whole_at_once(model: nn.Module) -> int:
    """Return the bytes that FSDP2 gathers: all outside blocks, and two blocks with gradients.

    While a block computes, the next is gathered; its gradients are complete before they are
    sharded.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    blocks = [block for stack in stacks for block in stack.blocks]
    inside = {p for block in blocks for p in block.parameters()}
    largest = max((block for block in blocks), key=lambda one: _bytes(one.parameters()))
    trained = _bytes(p for p in largest.parameters() if p.requires_grad)
    outside = _bytes(p for p in model.parameters() if p not in inside)
    return outside + 2 * (_bytes(largest.parameters()) + trained)


def flops_per_token(model: nn.Module, length: int, *, recompute: bool = False) -> int:
    """Return the approximate number of floating-point operations per token of a training step.

    6 for each weight of a matrix product: 2 forward, 2 for the gradient of the input and 2 for that
    of the weight (as in Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022, appendix F), fewer
    if parameters are frozen; and the products of attention. Norms, activations and embedding
    look-ups are not counted. In an encoder-decoder, a token is one source token and one target
    token.

    Args:
        model: with the frozen parameters frozen.
        length: tokens per example; the same for source and target.
        recompute: whether the forward pass of the blocks is computed twice.
    """
    products = {
        p
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.RNNBase | nn.Conv2d)
        for p in module.parameters()
        if p.ndim >= 2
    }
    flops, trains, reached = 0, False, set[nn.Parameter]()
    for group in layer_groups(model):
        trains = trains or any(p.requires_grad for p in group.parameters)
        reached |= set(group.parameters) if trains else set()
        for p in products.intersection(group.parameters):
            flops += (2 + 2 * trains + 2 * p.requires_grad) * p.numel()
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    inside = {p for stack in stacks for p in stack.parameters()}
    flops += 2 * recompute * sum(p.numel() for p in products & inside)
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):  # scores and mix; half of them if causal
            forward = 4 * module.n_heads * module.d_head * length // (2 if module.causal else 1)
            trains = not reached.isdisjoint(module.parameters())
            flops += (1 + 2 * trains + recompute) * forward
    return flops


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.nbytes for one in tensors)

"""Tensor parallelism: each rank computes some attention heads and some hidden units.

Shoeybi et al. 2019, "Megatron-LM: training multi-billion parameter language models using model
parallelism", section 3; here, torch's `parallelize_module`. Every rank sees all tokens, and the
ranks' parts of a sublayer's output are summed once:

    x -> [ W1's columns of rank 0 ] -> f -> [ W2's rows of rank 0 ] -> +  -> FFN(x)
    x -> [ W1's columns of rank 1 ] -> f -> [ W2's rows of rank 1 ] -> +
"""

from collections.abc import Mapping

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.models.gpt import ScaledAttention

Plan = Mapping[str, type[ParallelStyle]]  # name of a linear layer to how it is divided

COLUMNS, ROWS = ColwiseParallel, RowwiseParallel
HEADS: Plan = {"query": COLUMNS, "key": COLUMNS, "value": COLUMNS, "output": ROWS}
# By exact class: a mechanism with parameters that all heads share needs a plan of its own.
PLANS: dict[type[nn.Module], Plan] = {
    MultiHeadAttention: HEADS,
    ScaledAttention: HEADS,
    SlidingWindowAttention: HEADS,
    SoftcapAttention: HEADS,
    LinearAttention: HEADS,
    GatedAttention: {**HEADS, "gate": COLUMNS},
    FeedForward: {"up": COLUMNS, "gate": COLUMNS, "down": ROWS},
}


def parallelize(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the blocks of a model across the ranks of a mesh, in place; the rest is replicated.

    On every rank, the losses and the gradients of replicated parameters are those of one process.
    All ranks need the same weights, batches and random seed. Create the optimizer afterwards.

        parallelize(model, init_device_mesh("cpu", (2,)))

    Args:
        model: model with stacks of blocks.
        mesh: one-dimensional mesh.

    Raises:
        ConfigError: there are no blocks, one has a mechanism without a plan or a bias of each head,
            or the ranks do not divide its heads or hidden layer.
    """
    blocks = {
        f"{name}.blocks.{number}": block
        for name, stack in model.named_modules()
        if isinstance(stack, Stack)
        for number, block in enumerate(stack.blocks)
    }
    if not blocks:
        raise ConfigError(
            f"this {type(model).__name__} has no stack of blocks to divide; expected a Transformer"
        )
    parts = {
        f"{where}.{name}": part
        for where, block in blocks.items()
        for name, part in block.named_children()
        if name in ("self_attention", "cross_attention", "feed_forward")
    }
    for name, part in parts.items():
        _check(name, part, mesh.size())
    for part in parts.values():
        plan = {name: kind() for name, kind in PLANS[type(part)].items() if getattr(part, name)}
        parallelize_module(part, mesh, plan)
        if isinstance(part, MultiHeadAttention):
            part.n_heads //= mesh.size()  # those of this rank


def _check(name: str, part: nn.Module, n: int) -> None:
    """Check that a sublayer can be divided among n ranks."""
    if type(part) not in PLANS:
        known = ", ".join(sorted(one.__name__ for one in PLANS))
        raise ConfigError(f"{name} is a {type(part).__name__}; expected one of {known}")
    if isinstance(part, FeedForward):
        width, what = part.up.out_features, "units in the hidden layer"
    else:
        assert isinstance(part, MultiHeadAttention)
        width, what = part.key.out_features // part.d_head, "heads of keys"
        if part.position_bias is not None:
            raise ConfigError(
                f"{name} adds a bias of its own to the scores of each head; expected positions "
                "that all heads share, such as rotary ones"
            )
    if width % n:
        raise ConfigError(f"{name} has {width} {what}; expected a multiple of the {n} processes")

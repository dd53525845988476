"""FSDP2: each rank stores a shard of every parameter, gradient and optimizer state.

Zhao et al. 2023, "PyTorch FSDP: experiences on scaling fully sharded data parallel"; here, torch's
`fully_shard`, with one group of parameters per block, and one for the rest. A group is gathered
only while it computes.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.training import ranks

M_MMAP_THRESHOLD = -3  # the number of glibc's option


def shard(root: nn.Module, device: torch.device) -> None:
    """Shard a module's parameters across the ranks, in place; create its optimizer afterwards.

    Args:
        root: the module called in each step; its forward pass gathers the parameters outside
            blocks.
        device: device of the parameters.

    Raises:
        ConfigError: there is no stack of blocks to gather block by block.
    """
    mesh = init_device_mesh(device.type, (ranks.n_ranks(),))
    blocks = [
        block for stack in root.modules() if isinstance(stack, Stack) for block in stack.blocks
    ]
    if not blocks:
        raise ConfigError(
            "training.sharding = fsdp2, but the model has no stack of blocks to divide; expected "
            "sharding = none (is it a recurrent network?)"
        )
    if device.type == "cpu":
        _give_memory_back()
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh)
    left = [name for name, p in root.named_parameters() if not isinstance(p, DTensor)]
    if left:
        raise ConfigError(
            f"{', '.join(left[:5])} of {len(left)} parameters stayed whole; expected all to be "
            "sharded (is torch older than the oldest version of qkv's?)"
        )


def _give_memory_back() -> None:
    """Let glibc return freed blocks to the system at once: by default it keeps up to 32 MB each."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 18)


@contextmanager
def gathered(root: nn.Module) -> Iterator[None]:
    """Keep parameters outside blocks gathered, so that methods other than `forward` can run."""
    if not isinstance(root, FSDPModule):
        yield
        return
    root.unshard()
    try:
        yield
    finally:
        root.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's parameters are sharded across the ranks."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor on every rank; all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copied(tensor: Tensor) -> Tensor:
    """Return a copy in main memory; a sharded tensor is copied on its own devices."""
    tensor = tensor.detach()
    return tensor.clone() if isinstance(tensor, DTensor) else tensor.to("cpu", copy=True)

"""Checkpoints of sharded runs: each rank writes its shards, and any number of ranks reads them.

torch's distributed checkpoint, in safetensors. The files of unsharded runs can also be read.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from qkv.training import ranks


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's shards; every tensor that is not sharded is written by one rank.

    Args:
        folder: the same folder on all ranks, which must all call this.
        tensors: tensors by name; the names are the same on all ranks.

    Raises:
        OSError: on all ranks, if one of them could not write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save({**tensors}, storage_writer=writer)
    except CheckpointException as error:  # not an Exception: handlers miss it
        failed = "; ".join(f"process {rank}: {why[0]}" for rank, why in error.failures.items())
        raise OSError(failed) from error


def read_shards(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read all tensors of a folder, written by one or several processes.

    A tensor that has the shape of a sharded parameter is sharded like it, such as the parameter
    itself, its optimizer state and its average. All ranks must call this.

    Args:
        folder: folder with one or several safetensors files.
        model: the model to train, sharded or not.

    Returns:
        The tensors by name, on the CPU unless they are sharded.
    """
    reader = HuggingFaceStorageReader(str(folder))
    sharded = {p.shape: p for p in model.parameters() if isinstance(p, DTensor)}
    tensors: dict[str, Tensor] = {}
    for name, one in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(one, TensorStorageMetadata)
        dtype, like = one.properties.dtype, sharded.get(one.size)
        if like is None or not dtype.is_floating_point:
            tensors[name] = torch.empty(one.size, dtype=dtype)
        else:
            tensors[name] = torch.empty_like(like, dtype=dtype, requires_grad=False)
    state: dict[str, Any] = {**tensors}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, storage_reader=reader, no_dist=ranks.n_ranks() == 1)
    return tensors

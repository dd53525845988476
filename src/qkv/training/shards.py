"""Checkpoints of sharded runs: each rank writes its parts, and any number of ranks reads them.

torch's distributed checkpoint, in safetensors. The files of an unsharded run are read alike.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
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
    """Write this rank's parts of sharded tensors; of the others, each is written once.

    All ranks have to call it with the same folder and names.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save({**tensors}, storage_writer=writer)


def read_shards(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read all tensors of a folder; those of a shape as a sharded parameter's become sharded alike.

    So does what an optimizer or an average keeps of a parameter. All ranks have to call it.
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

"""The ranks of a training run, which `torchrun` starts, and how they agree on values.

Every process, or rank, runs the same program on its share of each batch. The first rank does what
must happen once (files, lines on the terminal). The ranks agree on everything that affects training
(scores, a signal), so that all take the same steps.
"""

import os
import socket
import time
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from qkv.errors import ConfigError

T = TypeVar("T")

PATIENCE = 45.0  # seconds in which the first rank has to be reachable


def rank() -> int:
    """Return the number of this process, from 0; known before the processes are connected."""
    return distributed.get_rank() if connected() else _variable("RANK", 0)


def n_ranks() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if connected() else _variable("WORLD_SIZE", 1)


def is_first() -> bool:
    """Return whether this process writes the files and the lines on the terminal."""
    return rank() == 0


def reach_first() -> None:
    """Wait until the first rank can be reached, unless torchrun has ensured that.

    Raises:
        ConfigError: it cannot be reached for 45 seconds.
    """
    if rank() == 0 or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    address = os.environ.get("MASTER_ADDR", "127.0.0.1"), _variable("MASTER_PORT", 29500)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"process {rank()} of {n_ranks()} cannot reach the first one at "
                    f"{address[0]}:{address[1]}: {error}; expected it to run there (are "
                    "MASTER_ADDR and MASTER_PORT right, and are all processes started?)"
                ) from error
        time.sleep(0.5)


def wait() -> None:
    """Wait until all ranks have reached this call."""
    if n_ranks() > 1:
        distributed.barrier()


def of_first(value: T) -> T:
    """Return the first rank's value on all ranks."""
    if n_ranks() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def of_all(value: T) -> list[T]:
    """Return every rank's value, in their order, on all ranks."""
    if n_ranks() == 1:
        return [value]
    values: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(values, value)
    return values


def highest(number: int, device: torch.device | str = "cpu") -> int:
    """Return the maximum of the ranks' numbers, such as the number of a signal."""
    if n_ranks() == 1:
        return number
    most: Tensor = torch.tensor(number, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


def check_same(what: str, value: object) -> None:
    """Check that all ranks have the same value, such as the versions of the packages.

    Raises:
        ConfigError: on all ranks, if one has another value.
    """
    values = of_all(value)
    other = next((i for i, one in enumerate(values) if one != values[0]), None)
    if other is not None:
        raise ConfigError(
            f"the processes of this training have different {what}: process 0 has {values[0]}, "
            f"process {other} has {values[other]}; expected the same everywhere (are files or "
            "installations of the machines out of date?)"
        )


def connected() -> bool:
    """Return whether this process is connected to the other ranks."""
    return distributed.is_available() and distributed.is_initialized()


def _variable(name: str, default: int) -> int:
    value = os.environ.get(name)
    if value is None:
        return default
    if not value.isdecimal():
        raise ConfigError(
            f"the environment has {name}={value}; expected a number, as torchrun sets it"
        )
    return int(value)

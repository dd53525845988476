"""The resources of a training run: processes, their memory and their speed."""

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from qkv.errors import ConfigError
from qkv.tasks.options import JsonTables

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
MOST = 1e15  # parameters; no model is as large
DAY = 24 * 60 * 60  # seconds


@dataclass(frozen=True, kw_only=True)
class Means:
    """The resources of a training run; the defaults are those of this machine.

    Args:
        parameters: plan the recipe's model at about this number of parameters, such as 7e9.
        gpus: number of processes, one per GPU; default: the GPUs of this machine, at least one.
        memory: memory per process, with its unit, such as 80GB; default: that of this machine.
        flops: floating-point operations per second of a process, such as 989e12; default: measured
            with float32 matrix products.
        utilization: fraction of these operations that training achieves.
        json: print one JSON object.

    Raises:
        ConfigError: a number is out of range.
    """

    parameters: float | None = None
    gpus: int | None = None
    memory: str | None = None
    flops: float | None = None
    utilization: float = 0.4
    json: JsonTables = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("parameters", 1), ("gpus", 1), ("flops", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"--{name} = {value}; expected at least {least}")
        if self.parameters is not None and self.parameters > MOST:
            raise ConfigError(f"--parameters = {self.parameters}; expected at most {MOST:.0e}")
        if self.flops == math.inf:
            raise ConfigError(f"--flops = {self.flops}; expected a finite number, such as 989e12")
        if not 0 < self.utilization <= 1:
            raise ConfigError(
                f"--utilization = {self.utilization}; expected a share above 0, at most 1"
            )
        if self.memory is not None:
            read_size(self.memory)


def read_size(text: str) -> int:
    """Return the bytes of a size such as 80GB or 23.5 GiB.

    Raises:
        ConfigError: it is not a positive number with a unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B)", text.strip().upper())
    n_bytes = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if n_bytes < 1:
        raise ConfigError(
            f"--memory {text}; expected a number above 0 with its unit, such as 80GB or 24GiB"
        )
    return n_bytes


def machine_memory() -> int:
    """Return the memory of the first GPU or, without one, of this machine or its container.

    Raises:
        ConfigError: the system does not report it.
    """
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError) as error:
        raise ConfigError(
            "the system does not say how much memory it has; expected --memory, such as 16GB"
        ) from error
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else ""
    return min(n_bytes, int(text)) if text.isdecimal() else n_bytes


def measured_flops(seconds: float = 1.0) -> float:
    """Return the measured floating-point operations per second of float32 matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 1024
    a = torch.ones(n, n, device=device)
    float((a @ a)[0, 0])  # the first takes longer
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        float((a @ a)[0, 0])  # waits for the result
        done += 1
    return done * 2 * n**3 / passed

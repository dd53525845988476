"""Measure computations: time compared with rivals, peak memory, and operations."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# PyTorch's counter supports the fused kernels of a GPU, but not that of a CPU, which is added.
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_FUSED_ON_CPU = {
    _FUSED: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    _FUSED_BACKWARD: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}


def interleave(
    rivals: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    turn: int = 1,
    warmup: int = 1,
    progress: bool = False,
) -> dict[str, list[float]]:
    """Time rivals in turns, so that a drift of the machine affects all of them equally.

    Args:
        rivals: functions to time, by name.
        rounds: number of timed turns of each rival.
        turn: number of calls in a turn, timed together; after the first, the caches contain the
            rival's own data, as in real use.
        warmup: number of untimed turns.
        progress: whether to show a progress bar.

    Returns:
        Seconds per call in every timed turn, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    numbers = range(warmup + rounds)
    for number in track(numbers, "rounds", transient=True, disable=not progress):
        for name, run in rivals.items():
            begin = time.perf_counter()
            for _ in range(turn):
                run()
            if number >= warmup:
                seconds[name].append((time.perf_counter() - begin) / turn)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the medians over rounds, by name, which are robust to pauses of the machine."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Return the peak memory, in bytes, of the CPU tensors that `run` allocates.

    It includes kernels' buffers allocated by PyTorch, but not earlier allocations. The result of
    `run` is discarded.
    """
    # The profiler reports its own stages on stderr, at level 5 and below.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    profile: Any = torch.autograd.profiler.profile(profile_memory=True)
    with profile:
        run()
    level = lowest = peak = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]" and event.device_type().name == "CPU":
            level += event.nbytes()  # negative where memory is freed
            # Below 0 goes only what an earlier measurement allocated and this one frees.
            lowest = min(lowest, level)
            peak = max(peak, level - lowest)
    return peak


def flops(run: Callable[[], object]) -> int:
    """Return the floating point operations of matrix products in `run`, 2 per multiply-add.

    A fused kernel is counted without a mask, even if it skips masked blocks.
    """
    with FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        run()
    return counter.get_total_flops()

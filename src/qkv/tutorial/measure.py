"""What a computation costs: time beside its rivals, memory, arithmetic."""

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# torch's counter knows the fused kernels of a GPU, but not that of a CPU: the same products.
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
    """Let the rivals take turns, so that a drift of the machine meets all alike.

    Args:
        rivals: what to time, by name.
        rounds: how many turns of each count.
        turn: calls in a turn, timed together; after the first the caches hold the rival's own data,
            as they do in real use.
        warmup: turns that do not count.
        progress: whether to show a bar.

    Returns:
        Seconds a call in every counted turn, by name.
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
    """Return the median over rounds, by name: a pause of the machine does not move it."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Return the most bytes of CPU tensors alive at once that `run` allocates.

    Kernels' own buffers count, as far as torch allocates them; memory of before does not. The
    result of `run` is dropped.
    """
    # The profiler reports its own stages on stderr, at level 5 and below.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    level = lowest = peak = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU:
            level += event.nbytes()  # negative where memory is freed
            # Below 0 goes only what an earlier measurement allocated and this one frees.
            lowest = min(lowest, level)
            peak = max(peak, level - lowest)
    return peak


def flops(run: Callable[[], object]) -> int:
    """Return the floating point operations of matrix products in `run`: 2 a multiply-add.

    A fused kernel counts as if nothing were masked, whatever it skips.
    """
    with FlopCounterMode(display=False, custom_mapping=_FUSED_ON_CPU) as counter:
        run()
    return counter.get_total_flops()

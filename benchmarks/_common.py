"""What every benchmark does: interleave the rivals, take medians, say on what machine and how."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

RESULTS = Path(__file__).parent / "results"


def interleave(
    rivals: Mapping[str, Callable[[], object]], *, rounds: int, turn: int = 1, warmup: int = 3
) -> dict[str, list[float]]:
    """Let the rivals take turns, so that a drift of the machine meets all alike.

    Args:
        rivals: what to time, by name.
        rounds: how many turns of each count.
        turn: calls in a turn, timed together; after the first the caches hold the rival's own data,
            as they do in real use.
        warmup: turns that do not count.

    Returns:
        Seconds a call in every counted turn, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in track(range(warmup + rounds), "rounds", transient=True):
        for name, run in rivals.items():
            begin = time.perf_counter()
            for _ in range(turn):
                run()
            if number >= warmup:
                seconds[name].append((time.perf_counter() - begin) / turn)
    return seconds


def ratios(seconds: Mapping[str, list[float]], ours: str) -> dict[str, float]:
    """Return the median over rounds of (rival's seconds / ours): above 1 we are faster."""
    return {
        name: statistics.median(b / a for a, b in zip(seconds[ours], times, strict=True))
        for name, times in seconds.items()
        if name != ours
    }


def machine(*packages: str) -> dict[str, Any]:
    """Describe the machine, the versions and the command."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("torch", *packages)},
        "command": "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]]),
    }


def save(name: str, result: Mapping[str, Any]) -> None:
    """Write a result beside the benchmarks."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(
        f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
    )

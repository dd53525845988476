"""What every benchmark does: say on what machine and how, and keep the numbers."""

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

RESULTS = Path(__file__).parent / "results"


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

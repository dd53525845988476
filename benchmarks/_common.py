"""What every benchmark does: say on what machine and how, keep the numbers, write the document."""

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from qkv.files import write_atomically

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
IMAGES = DOCS / "images"


QKV = [sys.executable, "-c", "from qkv.cli import main; raise SystemExit(main())"]


def train(command: Sequence[str], output: Path) -> dict[str, Any]:
    """Run `qkv train` unless its results are there already, and read them.

    So a campaign can be stopped and started, and a row that was trained elsewhere counts.
    """
    path = output / "results.json"
    if not path.exists():
        Console().print(f"[bold]qkv {shlex.join(command)}[/bold]")
        subprocess.run([*QKV, *command], check=True)
    return load(path)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark can be asked."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument(
        "--publish-only",
        action="store_true",
        help="measure nothing: write the document from the numbers of the last run",
    )
    return parser


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


def ratios(seconds: Mapping[str, list[float]], ours: str) -> dict[str, float]:
    """Return the median over rounds of (rival's seconds / ours): above 1 we are faster."""
    return {
        name: statistics.median(b / a for a, b in zip(seconds[ours], times, strict=True))
        for name, times in seconds.items()
        if name != ours
    }


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, such as RESULTS / "name.json"."""
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    Console().print(
        f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
    )


def load(path: Path) -> dict[str, Any]:
    """Read the result of the last run."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_runs(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the runs so far, or begin; stop if they were made with other settings."""
    if not path.exists():
        return {"settings": settings, "runs": []}
    result = load(path)
    if result["settings"] != json.loads(json.dumps(settings)):
        raise SystemExit(f"{path} is of other settings than these: delete it to begin anew")
    return result


def save_runs(path: Path, result: Mapping[str, Any]) -> None:
    """Write settings and machine, and each run on a line of its own."""
    runs = ",\n".join(json.dumps(run) for run in result["runs"])
    rest = {key: value for key, value in result.items() if key != "runs"}
    text = json.dumps(rest, indent=2).removesuffix("\n}") + f',\n  "runs": [\n{runs}\n  ]\n}}\n'
    write_atomically(path, text)


def over_seeds(runs: Sequence[Mapping[str, Any]], key: str, form: Callable[[float], str]) -> str:
    """Write the mean over the seeds, and the lowest and highest where they differ."""
    values = [run[key] for run in runs]
    low, high = form(min(values)), form(max(values))
    return form(statistics.mean(values)) + (f" ({low} to {high})" if low != high else "")


def provenance(path: Path, result: Mapping[str, Any]) -> str:
    """Say where the numbers of a block come from."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"`{machine['command']}` on {machine['processor']}, "
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}, "
        f"{machine['system']}, {versions}; every number is in "
        f"[`benchmarks/results/{path.name}`](../benchmarks/results/{path.name})."
    )


def publish(name: str, markdown: str, document: Path = DOCS / "performance.md") -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in a document."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{document} has no markers {begin} ... {end}")
    write_atomically(document, f"{before}{begin}\n\n{markdown}\n\n{end}{after}")


def campaign(
    description: str,
    path: Path,
    rows: Sequence[Any],
    run: Callable[[Any], Any],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Run all rows or those asked for, keep them beside the others' results, and publish.

    Args:
        description: of the script.
        path: of the results.
        rows: each with a name, in the order of the table.
        run: a row, to what is kept of it.
        show: publishes what is kept.
    """
    parser = arguments(description)
    parser.add_argument("--only", nargs="*", help="names of rows, such as those of the table")
    parser.add_argument("--missing", action="store_true", help="only rows without a result")
    options = parser.parse_args()
    kept = load(path)["rows"] if path.exists() else {}
    asked = [row for row in rows if row.name in (options.only or [row.name])]
    if options.missing:
        asked = [row for row in asked if row.name not in kept]
    for row in asked if not options.publish_only else ():
        kept[row.name] = run(row)
        # Rows are run one by one: what the last call was told says nothing of the others.
        command = {"command": f"python benchmarks/{Path(sys.argv[0]).name}"}
        ordered = {row.name: kept[row.name] for row in rows if row.name in kept}
        save(path, {"machine": machine("transformers") | command, "rows": ordered})
    show(load(path))

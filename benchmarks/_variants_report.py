"""Tables and figure of the comparison in docs/variants.md, from results/variants.json."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _variants import BASELINE, MECHANISMS

from qkv.explorer.figures import new_figure, save_figure
from qkv.explorer.tables import markdown_table, show_table
from qkv.files import write_atomically

DOCS = Path(__file__).parent.parent / "docs"
NAME = "variants-quality"
Run = Mapping[str, Any]


def publish_quality(result: Mapping[str, Any], *, publish: bool) -> None:
    """Show the tables, and write them and the figure into docs/variants.md."""
    runs = {
        task: {name: of(result["runs"], task, name) for name in MECHANISMS}
        for task in ("dates", "copy")
    }
    runs = {task: {n: r for n, r in each.items() if r} for task, each in runs.items()}
    titles = {
        "dates": "Dates: exact match on {test pairs:,} unseen dates after {steps} steps",
        "copy": "Copying {lengths[0]} to {lengths[1]} symbols, after {steps:,} steps",
    }
    parts = []
    for task, row in (("dates", date_row), ("copy", copy_row)):
        if not runs[task]:
            continue
        title = titles[task].format(**result["settings"][task])
        rows = [{"self-attention": name} | row(each) for name, each in runs[task].items()]
        show_table(title, rows)
        parts.append(f"**{title}**\n\n{markdown_table(rows)}")
    if publish:
        draw(runs)
        fill(DOCS / "variants.md", NAME, "\n\n".join([*parts, provenance(result)]))


def of(runs: Sequence[Run], task: str, name: str) -> list[Run]:
    return [run for run in runs if (run["task"], run["mechanism"]) == (task, name)]


def over_seeds(runs: Sequence[Run], key: str, form: Callable[[float], str]) -> str:
    """Write the mean over the seeds, and the lowest and highest where they differ."""
    values = [run[key] for run in runs]
    low, high = form(min(values)), form(max(values))
    return form(statistics.mean(values)) + (f" ({low} to {high})" if low != high else "")


def percent(share: float) -> str:
    return f"{share:.1%}"


def date_row(runs: Sequence[Run]) -> dict[str, str]:
    return {
        "exact match": over_seeds(runs, "exact match", percent),
        "loss of the last steps": over_seeds(runs, "loss of the last steps", "{:.3f}".format),
        "parameters": f"{runs[0]['parameters']:,}",
        "seconds": over_seeds(runs, "seconds", "{:.0f}".format),
        "seeds": str(len(runs)),
    }


def copy_row(runs: Sequence[Run]) -> dict[str, str]:
    beyond = "right tokens beyond the windows"
    return {
        "right tokens": over_seeds(runs, "right tokens", percent),
        "of more than 16 symbols": over_seeds(runs, beyond, percent),
        "right sequences": over_seeds(runs, "right sequences", percent),
        "steps to 90 %": ", ".join(steps_to(run, 0.9) for run in runs),
        "parameters": f"{runs[0]['parameters']:,}",
        "seconds": over_seeds(runs, "seconds", "{:.0f}".format),
        "seeds": str(len(runs)),
    }


def steps_to(run: Run, share: float) -> str:
    """Say at which look at the validation stream the share of right tokens was reached."""
    return next((f"{step:,}" for step, right in run["validation"] if right >= share), "-")


def provenance(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Machine: {machine['processor']}, threads: {machine['threads']}, {machine['system']}, "
        f"torch {machine['versions']['torch']}. Every run, with its curve: "
        "[`benchmarks/results/variants.json`](../benchmarks/results/variants.json)."
    )


def draw(runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> None:
    """Draw a dot for each seed, one row a mechanism, one column a task."""
    figure, axes = new_figure(1, 2, size=(12, 5.2))
    names = list(MECHANISMS)
    columns = {
        "dates": ("exact match", "Dates: whole dates right"),
        "copy": ("right tokens beyond the windows", "Copying: tokens right, over 16 symbols"),
    }
    for place, (task, (key, title)) in zip(axes[0], columns.items(), strict=True):
        plain = runs[task].get(BASELINE, [])
        if plain:
            values = [run[key] for run in plain]
            place.axvspan(min(values), max(values), color="tab:orange", alpha=0.2)
        for row, name in enumerate(names):
            values = [run[key] for run in runs[task].get(name, [])]
            color = "tab:orange" if name == BASELINE else "tab:blue"
            place.plot(values, [row] * len(values), "o", color=color, alpha=0.7)
        place.set_yticks(range(len(names)), names if place is axes[0, 0] else [""] * len(names))
        place.set_ylim(len(names) - 0.5, -0.5)
        place.set_xlim(-0.03, 1.03)
        place.set_xlabel(key.replace(" beyond the windows", ""))
        place.set_title(title, fontsize=10)
        place.grid(alpha=0.3)
    figure.suptitle("One dot a seed; the band is the range of multi-head attention", fontsize=11)
    save_figure(figure, DOCS / "images" / "variants.png")


def fill(document: Path, name: str, markdown: str) -> None:
    """Replace what stands between the markers of this name in a document."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{document} has no markers {begin} ... {end}")
    write_atomically(document, f"{before}{begin}\n\n{markdown}\n\n{end}{after}")

"""Tables and figure of docs/variants.md: what the mechanisms learn, and what they cost."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from _common import DOCS, IMAGES, RESULTS, load, over_seeds, provenance, publish
from _variants import BASELINE, COPY, MECHANISMS, REACH

from qkv.tutorial.figures import draw_curves, new_figure, save_figure
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT = DOCS / "variants.md"
QUALITY, COSTS = RESULTS / "variants.json", RESULTS / "attention.json"
Run = Mapping[str, Any]


def report(result: Mapping[str, Any], *, quick: bool) -> None:
    """Show what was learned, and write it and the costs into docs/variants.md."""
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
    if quick:
        return
    draw(runs)
    draw_lengths(runs["copy"])
    publish("variants-quality", "\n\n".join([*parts, provenance(QUALITY, result)]), DOCUMENT)
    if COSTS.exists():
        costs = load(COSTS)
        table = f"{markdown_table(cost_rows(costs['modules']))}\n\n{provenance(COSTS, costs)}"
        publish("variants-cost", table, DOCUMENT)


def of(runs: Sequence[Run], task: str, name: str) -> list[Run]:
    return [run for run in runs if (run["task"], run["mechanism"]) == (task, name)]


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


def cost_rows(modules: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write milliseconds and memory by length, and the time beside multi-head attention."""
    return [
        {"module": name}
        | {
            f"ms at {int(length):,}": f"{second * 1e3:,.1f}"
            for length, second in each["median seconds"].items()
        }
        | {
            f"time / multi-head at {int(length):,}": f"{times:.2f}x"
            for length, times in [list(each["ratio"].items())[-1]]
        }
        | {
            f"MB at {int(length):,}": f"{size / 1e6:,.0f}"
            for length, size in [list(each["peak bytes"].items())[-1]]
        }
        for name, each in modules.items()
    ]


def draw(runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> None:
    """Draw a dot for each seed, one row a mechanism, one column a task."""
    figure, axes = new_figure(1, 2, size=(12, 5.2))
    names = list(MECHANISMS)
    columns = {
        "dates": ("exact match", "Dates: ahead is what knows its neighbours, and the gate"),
        "copy": (
            "right tokens beyond the windows",
            f"Copying more than {REACH} symbols: by a softmax over all keys, or the delta rule",
        ),
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
    save_figure(figure, IMAGES / "variants.png")


def draw_lengths(runs: Mapping[str, Sequence[Run]]) -> None:
    """Draw the share of right tokens by length, for multi-head and what did not learn to copy."""
    key = "right tokens by length"
    curves = {}
    for name, each in runs.items():
        means = {int(n): statistics.mean(run[key][n] for run in each) for n in each[0][key]}
        if name == BASELINE or statistics.mean(means.values()) < 0.9:
            curves[name] = list(means), list(means.values())
    figure, axes = new_figure(size=(8, 4))
    place = axes[0, 0]
    for reach in (COPY["window"], REACH):
        place.axvline(reach, color="gray", linestyle=":")
    title = f"Windows of {COPY['window']}: one layer reaches {COPY['window']} symbols, two {REACH}"
    draw_curves(place, curves, x="symbols to copy", y="right tokens", title=title)
    place.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    save_figure(figure, IMAGES / "variants_lengths.png")

"""The history of translation as a ladder: what each step bought, by one recipe and three seeds.

Every run is one `qkv train ladder` command. A run whose folder under out/ladder holds its results
already is not trained again. The last two steps change no training: they search with a beam, and
average the last checkpoints of the modern block. The data is found under QKV_DATA.
"""

import json
import shlex
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _common import DOCS, IMAGES, RESULTS, campaign, provenance, publish, train

from qkv.tasks.recipes import find_recipe, read_recipe
from qkv.tasks.splits import DataConfig, read_splits
from qkv.tasks.translation import TASK, Translator
from qkv.training.checkpointing import STATE, average_checkpoints, find_checkpoints
from qkv.tutorial.figures import new_figure, save_figure, smooth
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "ladder.json"
OUTPUT = Path("out/ladder")
SEEDS = (0, 1, 2)
RECURRENT = "--model.d_model 64 --model.d_ff 128"  # as many parameters as the Transformers
MODERN = "--model.norm_first --model.norm rms --model.feed_forward swiglu --model.d_ff 170"
BEAM, AVERAGE = "+ beam of 5", "+ mean of the last 5 checkpoints"
OPTIONS = {
    "recurrent, no attention": "--model.kind recurrent --model.d_model 64 --model.d_ff 136",
    "recurrent, Bahdanau": f"--model.kind bahdanau {RECURRENT}",
    "recurrent, Luong": f"--model.kind luong {RECURRENT}",
    "Transformer, post-norm": "",
    "Transformer, pre-norm": "--model.norm_first",
    "modern block": f"{MODERN} --model.rotary_base 10000 --training.average_last 5",
}
STEPS = (*OPTIONS, BEAM, AVERAGE)


@dataclass(frozen=True)
class Run:
    """A training run: a step of the ladder, and a seed."""

    step: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.step}, seed {self.seed}"


def run(row: Run) -> dict[str, Any]:
    """Train what is not trained yet, and score it."""
    output = OUTPUT / row.name.replace(", ", "-").replace(" ", "-")
    options = f"{OPTIONS[row.step]} --training.seed {row.seed}"
    found = train(["train", "ladder", *shlex.split(options), "--output", output.as_posix()], output)
    checkpoints = output.with_name(f"{output.name}.training") / "checkpoints"
    state = json.loads((find_checkpoints(checkpoints)[0] / STATE).read_text(encoding="utf-8"))
    history = state["state"]["history"]
    scores = {row.step: {part: of_part(found[part]) for part in ("validation", "test")}}
    if row.step == "modern block":
        scores = decoded(row.step, output, checkpoints)
    return {
        "step": row.step,
        "seed": row.seed,
        "command": f"qkv train ladder {options}",
        "parameters": found["parameters"],
        "seconds": found["train_seconds"],
        "scores": scores,
        "losses": [round(float(x), 3) for x in smooth(history["losses"], 20)[19::20]],
        "evaluations": [
            [step, round(scores["chrF"], 2)]
            for step, scores in (one["$tuple"] for one in history["evaluations"])
        ],
    }


def decoded(step: str, output: Path, checkpoints: Path) -> dict[str, Any]:
    """Score the last weights, without and with a beam, and the average of the last ones."""
    _, _, content = read_recipe(find_recipe("ladder"))
    splits = read_splits(TASK, DataConfig(**content["data"]))
    averaged, searched = Translator.load(output, beam=5), Translator.load(output, beam=5)
    average_checkpoints(searched.model, checkpoints, 1)  # those of the last step
    greedy = Translator.of(searched.loaded, beam=1)
    return {
        name: {
            part: of_part(asdict(translator.evaluate(getattr(splits, part))))
            for part in ("validation", "test")
        }
        for name, translator in {step: greedy, BEAM: searched, AVERAGE: averaged}.items()
    }


def of_part(scores: dict[str, Any]) -> dict[str, float]:
    """Return the two scores that are kept of a split."""
    kept = {"BLEU": "bleu_lowercase", "chrF2": "chrf"}
    return {name: round(scores[field]["score"], 2) for name, field in kept.items()}


def publish_rows(result: dict[str, Any]) -> None:
    """Write the table of docs/results.md, and draw the curves of the first seed."""
    rows, runs = [], list(result["rows"].values())
    for step in STEPS:
        of = [one for one in runs if step in one["scores"]]
        if not of:
            continue
        scores = [one["scores"][step] for one in of]
        bleu = [one["test"]["BLEU"] for one in scores]
        mean = {part: statistics.mean(one[part]["chrF2"] for one in scores) for part in scores[0]}
        rows.append(
            {
                "step": step,
                "BLEU of test_2016, mean": f"{statistics.mean(bleu):.1f}",
                "each seed": " ".join(f"{one:.1f}" for one in bleu),
                "chrF2, mean": f"{mean['test']:.1f}",
                "chrF2 of the validation split": f"{mean['validation']:.1f}",
                "parameters": f"{of[0]['parameters']:,}",
                "seconds of training": f"{statistics.median(one['seconds'] for one in of):.0f}",
            }
        )
    show_table("the ladder", rows)
    draw(runs, IMAGES / "ladder.png")
    commands = markdown_table(
        [
            {"step": name, "options of `qkv train ladder`": f"`{o}`" if o else "-"}
            for name, o in OPTIONS.items()
        ]
    )
    text = f"{markdown_table(rows)}\n\n{commands}\n\n{provenance(PATH, result)}"
    publish("ladder", text, DOCS / "results.md")


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss and the validation score of the first seed of each step."""
    figure, axes = new_figure(1, 2, size=(11, 4.2))
    for one in (one for one in runs if one["seed"] == SEEDS[0]):
        steps = range(20, 20 * len(one["losses"]) + 1, 20)
        axes[0, 0].plot(steps, one["losses"], label=one["step"])
        axes[0, 1].plot(*zip(*one["evaluations"], strict=True), marker="o", label=one["step"])
    axes[0, 0].set(xlabel="step", ylabel="training loss (nats per token, smoothed targets)")
    axes[0, 1].set(xlabel="step", ylabel="chrF of the validation split")
    axes[0, 0].legend()
    save_figure(figure, path, close=True)


if __name__ == "__main__":
    rows = [Run(step, seed) for seed in SEEDS for step in OPTIONS]
    campaign("The history of translation as a ladder.", PATH, rows, run, publish_rows)

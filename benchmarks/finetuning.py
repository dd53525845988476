"""Fine-tune MiniLM by recipe, three seeds each on the reviews, and publish the held-out scores.

Every row is one `qkv train` command. A row whose folder under out/ holds its results already is not
trained again: so the campaign can be stopped and started. Named sets are found under QKV_DATA.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from _common import DOCS, RESULTS, campaign, provenance, publish, train

from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "finetuning.json"
DOCUMENT = DOCS / "results.md"
OUTPUT = Path("out")


@dataclass(frozen=True)
class Row:
    """One recipe, what is changed in it, and the seeds that it is run with."""

    name: str
    recipe: str
    options: str = ""
    seeds: tuple[int, ...] = (0,)

    def commands(self) -> Iterator[tuple[Path, list[str]]]:
        """Where each run goes, and what follows `qkv`."""
        for seed in self.seeds:
            words = re.findall(r"\w+", self.name)
            output = OUTPUT / "finetuning" / "-".join([*words, str(seed)])
            command = ["train", self.recipe, *shlex.split(self.options)]
            yield output, [*command, "--training.seed", str(seed), "--output", output.as_posix()]


def reviews(name: str, options: str) -> Row:
    """A way to fine-tune, on the reviews."""
    return Row(name, "classify", options, seeds=(0, 1, 2))


ROWS = (
    reviews(
        "head only",
        "--finetuning.train head --training.learning_rate 3e-3 --training.epochs 6",
    ),
    reviews(
        "top 2 layers",
        "--finetuning.train top --training.learning_rate 8e-4 --training.epochs 5 "
        "--training.ema 0.96",
    ),
    reviews(
        "gradual unfreezing",
        "--finetuning.train gradual --finetuning.layer_decay 0.8 --training.learning_rate 5e-4",
    ),
    reviews("everything, small rate", "--training.learning_rate 2e-4"),
    reviews(
        "LoRA",
        "--finetuning.train lora --training.learning_rate 3e-3 "
        "--finetuning.lora.pattern 'attention|feed_forward'",
    ),
    reviews("random weights", "--finetuning.train scratch --training.learning_rate 2e-4"),
    Row("SST-2, sentences", "sst2"),
    Row("TREC, 6 classes", "trec"),
    Row("emotion, 6 classes", "emotion"),
)


def run(row: Row) -> list[dict[str, Any]]:
    """Train what is not trained yet, and read the results."""
    records = []
    for output, command in row.commands():
        result = train(command, output)
        records.append(
            {
                "command": f"qkv {shlex.join(command)}",
                "accuracy": result["test"]["accuracy"],
                "interval": result["test"]["accuracy_interval"],
                "macro F1": result["test"]["macro_f1"],
                "validation accuracy": result["validation"]["accuracy"],
                "held out": result["test"]["count"],
                "learned from": result["train_examples"],
                "trained parameters": result["trained_parameters"],
                "seconds": result["train_seconds"],
                "threads": result["threads"],
            }
        )
    return records


def publish_rows(result: dict[str, Any]) -> None:
    """Write the tables of docs/results.md."""
    rows = []
    for name, records in result["rows"].items():
        low, high = records[0]["interval"]
        scores = " ".join(f"{100 * record['accuracy']:.1f}" for record in records)
        rows.append(
            {
                "what": name,
                "held-out accuracy": f"{mean(r['accuracy'] for r in records):.1%}",
                "each seed": scores,
                "95 % of the first": f"{100 * low:.1f} to {100 * high:.1f}",
                "macro-F1": f"{mean(r['macro F1'] for r in records):.1%}",
                "texts": f"{records[0]['learned from']:,} / {records[0]['held out']:,}",
                "trained parameters": f"{records[0]['trained parameters']:,}",
                "seconds": f"{mean(r['seconds'] for r in records):,.0f}",
                "command": f"`{records[0]['command']}`".replace("|", "\\|"),
            }
        )
    show_table("held-out texts", [{k: v for k, v in row.items() if k != "command"} for row in rows])
    publish("finetuning", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}", DOCUMENT)


if __name__ == "__main__":
    campaign(__doc__ or "", PATH, ROWS, run, publish_rows)

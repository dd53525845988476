"""Train every recipe of the six applications, and publish its test scores.

Every row is one `qkv train` command, hours in all. A row whose folder under out/ holds its results
already is not trained again: so the campaign can be stopped and started, and a row that was trained
elsewhere counts. Named sets are found under QKV_DATA.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import DOCS, RESULTS, campaign, provenance, publish, train
from _scores import (
    Score,
    number,
    of_answers,
    of_classes,
    of_summaries,
    of_texts,
    of_translations,
    percent,
)

from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "tasks.json"
DOCUMENT = DOCS / "results.md"
OUTPUT = Path("out")

THREADS = "Rows with one thread ran beside another training; an idle machine is faster."


def of_dates(found: dict[str, Any]) -> list[Score]:
    """Return the exact match, without an interval: the recipe only saves the fraction."""
    return [percent("exact match, %", found["test_exact_match"])]


def of_test(scores: Callable[[dict[str, Any]], list[Score]]) -> Callable[..., list[Score]]:
    """Return scores on the test split; without one, on the validation split."""
    return lambda found: scores(found.get("test") or found["validation"])


@dataclass(frozen=True)
class Row:
    """A recipe, its changed options, and the targets that were set before measuring.

    A target (`bars`) is a minimum, for losses a maximum.
    """

    name: str
    data: str
    recipe: str
    scores: Callable[[dict[str, Any]], list[Score]]
    bars: tuple[float, ...] = ()
    options: str = ""

    def command(self) -> tuple[Path, list[str]]:
        """Where the run goes, and what follows `qkv`."""
        output = OUTPUT / self.name
        command = ["train", self.recipe, *shlex.split(self.options)]
        return output, [*command, "--output", output.as_posix()]


ROWS = (
    Row("dates", "dates of 48 locales", "dates", of_dates, (99.5,)),
    Row("multi30k", "Multi30k en-de, test_2016", "multi30k", of_test(of_translations), (33.0,)),
    Row("tatoeba", "Tatoeba en-de, test", "tatoeba", of_test(of_translations)),
    Row(
        "qamr-lora",
        "QAMR, test",
        "qamr",
        of_test(of_answers),
        (70.0,),
        "--finetuning.train lora --training.learning_rate 2e-3",
    ),
    Row("xquad", "XQuAD en, after QAMR and new_wiki", "xquad", of_test(of_answers), (55.0, 42.0)),
    Row("aeslc", "AESLC, test", "aeslc", of_test(of_summaries), (13.0, 6.0, 13.0)),
    Row("docstrings", "docstrings, test", "summarize_docstrings", of_test(of_summaries)),
    Row(
        "tinyshakespeare",
        "tinyshakespeare, validation",
        "tinyshakespeare",
        of_test(of_texts),
        (1.8,),
    ),
    Row("docstring_writer", "docstrings, test", "docstring_writer", of_test(of_texts)),
    Row("pairs", "QAMR, does a sentence answer? test", "pairs", of_test(of_classes)),
    Row("fashion_mnist", "Fashion-MNIST, test", "fashion_mnist", of_test(of_classes), (91.0,)),
    Row("digits", "digits of scikit-learn, test", "digits", of_test(of_classes), (98.0,)),
)


def run(row: Row) -> dict[str, Any]:
    """Train what is not trained yet, and read the results."""
    output, command = row.command()
    shown = f"qkv {shlex.join(command)}"
    found = train(command, output)
    bars = [*row.bars, *[None] * 3]
    return {
        "data": row.data,
        "recipe": row.recipe,
        "command": shown,
        "seed": found["recipe"]["training"]["seed"],
        "parameters": found["parameters"],
        "trained parameters": found["trained_parameters"],
        "seconds": found["train_seconds"],
        "threads": found["threads"],
        "scores": [
            {"score": one.name, "value": one.value, "interval": one.interval, "bar": bar}
            for one, bar in zip(row.scores(found), bars, strict=False)
        ],
        "signature": signature(found.get("test") or {}),
    }


def signature(test: dict[str, Any]) -> str:
    """How the scorer counted, where it says so."""
    first = test.get("bleu_lowercase", test)
    return first.get("signature", "")


def publish_rows(result: dict[str, Any]) -> None:
    """Write the tables of docs/results.md: the scores, and how each came about."""
    scores, runs = [], []
    for name, row in result["rows"].items():
        scores += [
            {
                "recipe": name,
                "data": row["data"],
                "score": one["score"],
                "value": number(one["score"], one["value"]),
                "95 %": "{:.2f} to {:.2f}".format(*one["interval"]) if one["interval"] else "-",
                "target": "-" if one["bar"] is None else f"{one['bar']:g}",
            }
            for one in row["scores"]
        ]
        of = "" if row["trained parameters"] == row["parameters"] else f" of {row['parameters']:,}"
        runs.append(
            {
                "recipe": f"[{name}](../src/qkv/recipes/{row['recipe']}.yaml)",
                "command": f"`{row['command']}`".replace("|", "\\|"),
                "seed": str(row["seed"]),
                "trained parameters": f"{row['trained parameters']:,}{of}",
                "seconds of training": f"{row['seconds']:,.0f}",
                "threads": str(row["threads"]),
                "signature": f"`{row['signature']}`".replace("|", "\\|")
                if row["signature"]
                else "-",
            }
        )
    show_table("test splits", scores)
    tables = f"{markdown_table(scores)}\n\n{markdown_table(runs)}"
    publish("tasks", f"{tables}\n\n{THREADS} {provenance(PATH, result)}", DOCUMENT)


if __name__ == "__main__":
    campaign(__doc__ or "", PATH, ROWS, run, publish_rows)

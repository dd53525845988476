"""Summaries of prose without training, on three test sets: ROUGE of four methods.

    python benchmarks/prose.py                        all rows, about 40 minutes on one thread
    python benchmarks/prose.py --missing              those without a result
    python benchmarks/prose.py --only prose-abstract  some of them

The prompt of the language model, the rule of centrality and the numbers of sentences were chosen on
the validation splits of AESLC and DialogSum. Each row is a single evaluation on a test split. A
language model takes seconds for a text, so of the large sets all methods summarize the same evenly
spaced texts. No text is stored: AESLC has real e-mails.
"""

import time
from dataclasses import dataclass
from statistics import mean
from typing import Any

from _common import DOCS, RESULTS, campaign, provenance, publish

from qkv.evaluation.summarization import summary_scores
from qkv.tasks.prose import DEFAULT, METHODS, SENTENCES
from qkv.tasks.splits import Source, evenly
from qkv.tasks.summarization import TASK, Summarizer
from qkv.tutorial.tables import markdown_table

DOCUMENT, FILE = DOCS / "results.md", RESULTS / "prose.json"
TITLES = {"aeslc": "AESLC, e-mails", "dialogsum": "DialogSum, dialogues", "prose": "prose"}
MOST = {"aeslc": 100, "dialogsum": 50}  # texts of a set, for all methods
CANDIDATES = ("lead-1", "extract", "abstract")  # for the default method


@dataclass(frozen=True)
class Row:
    """A method on a data set.

    Args:
        data: a named set.
        title: of the method.
        method: what --method would be.
        sentences: what --sentences would be.
    """

    data: str
    title: str
    method: str
    sentences: int

    @property
    def name(self) -> str:
        """The name for --only."""
        return f"{self.data}-{self.title}"


ROWS = [
    Row(data, title, method, sentences)
    for title, method, sentences in (
        ("lead-1", "lead", 1),
        ("lead-3", "lead", 3),
        ("extract", "extract", SENTENCES["extract"]),
        ("abstract", "abstract", SENTENCES["abstract"]),
    )
    for data in TITLES
]


def run(row: Row) -> dict[str, Any]:
    """Score one row."""
    every = Source(TASK, {}).read(row.data, "test")
    examples = evenly(every, MOST.get(row.data))
    settings: Any = {"method": row.method, "sentences": row.sentences, "device": "cpu"}
    summarizer = Summarizer.load(METHODS[row.method], **settings)
    before = time.perf_counter()
    summaries = [one.summary for one in summarizer([one.text for one in examples], progress=True)]
    seconds = time.perf_counter() - before
    scores = summary_scores(summaries, [one.summaries for one in examples])
    print(f"{row.name}: {[round(one.f1, 2) for one in scores.named.values()]}", flush=True)
    return {
        "data": row.data,
        "method": row.method,
        "title": row.title,
        "sentences": row.sentences,
        "count": scores.count,
        "of": len(every),
        "f1": {name: one.f1 for name, one in scores.named.items()},
        "intervals": {name: one.interval for name, one in scores.named.items()},
        "signature": scores.signature,
        "words": mean(len(one.split()) for one in summaries),
        "seconds_per_text": seconds / len(examples),
    }


def show(result: dict[str, Any]) -> None:
    """Write the table of the document, and the means by which the default was chosen."""
    rows = sorted(result["rows"].values(), key=lambda row: list(TITLES).index(row["data"]))
    table = [
        {
            "test data": TITLES[row["data"]],
            "texts": f"{row['count']:,} of {row['of']:,}",
            "method": row["title"],
            "sentences": str(row["sentences"]),
            **{name: f"{f1:.1f}" for name, f1 in row["f1"].items()},
            "mean": f"{mean(row['f1'].values()):.1f}",
            "words": f"{row['words']:.0f}",
            "seconds per text": f"{row['seconds_per_text']:.2f}",
        }
        for row in rows
    ]
    of_title = {title: [one for one in rows if one["title"] == title] for title in CANDIDATES}
    means = {
        title: mean(mean(row["f1"].values()) for row in some)
        for title, some in of_title.items()
        if len(some) == len(TITLES)
    }
    listed = ", ".join(f"{title} {value:.1f}" for title, value in means.items())
    text = f"Mean of the three sets: {listed}. The default of `qkv summarize` is `{DEFAULT}`."
    parts = (markdown_table(table), text, provenance(FILE, result))
    publish("prose", "\n\n".join(parts), DOCUMENT)


if __name__ == "__main__":
    campaign(__doc__ or "", FILE, ROWS, run, show)

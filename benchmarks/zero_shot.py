"""Classes without training: embeddings of MiniLM, and likelihood under SmolLM2, on three test sets.

    python benchmarks/zero_shot.py                     all rows, about 20 minutes on one thread
    python benchmarks/zero_shot.py --only trec-minilm  some of them

The words for the classes of TREC and of emotion were chosen on their training splits, for each
method; AG News has its published class names. Each row is a single evaluation on the test split.
"""

import time
from dataclasses import dataclass
from typing import Any

from _common import DOCS, RESULTS, campaign, provenance, publish

from qkv.tasks.classification import TASK, TextClassifier
from qkv.tasks.splits import Source
from qkv.tutorial.tables import markdown_table
from qkv.zoo.catalog import MINILM, SMOLLM2

DOCUMENT, FILE = DOCS / "results.md", RESULTS / "zero_shot.json"
TITLES = {
    "trec": "TREC, 6 classes",
    "ag_news": "AG News, 4 classes",
    "emotion": "emotion, 6 classes",
}
TARGETS = {"trec": 55, "ag_news": 75}
TREC_QUESTIONS = (
    "ABBR=an abbreviation, "
    "DESC=what is it|why is it so|how is it done|what does it mean|what does it do, "
    "ENTY=which animal|which food|which color|which sport|which product|which word, "
    "HUM=who did it|who a person is|which person|which company, "
    "LOC=where something is|which country|which city, "
    "NUM=how many|how much|which year|how long"
)
TREC_NOUNS = (
    "ABBR=an abbreviation, DESC=a definition or a reason, ENTY=a thing, HUM=a person, "
    "LOC=a place, NUM=a number"
)
EMOTIONS = "joy=happy, sadness=sad, anger=angry, fear=afraid, love=loving, surprise=surprised"
NEWS = "World, Sports, Business, Sci/Tech"


@dataclass(frozen=True)
class Row:
    """A model, a data set, and the labels.

    Args:
        name: for --only.
        model: a shipped model.
        data: a named set.
        labels: what --labels would be.
        most: number of rows of the test split, from its beginning; None means all.
        independent: see `qkv classify --independent`.
    """

    name: str
    model: str
    data: str
    labels: str
    most: int | None = None
    independent: bool = False


ROWS = (
    Row("trec-minilm", MINILM, "trec", TREC_QUESTIONS),
    Row("ag_news-minilm", MINILM, "ag_news", NEWS),
    Row("emotion-minilm", MINILM, "emotion", EMOTIONS),
    Row("ag_news-minilm-independent", MINILM, "ag_news", NEWS, independent=True),
    Row("emotion-minilm-independent", MINILM, "emotion", EMOTIONS, independent=True),
    Row("trec-smollm2", SMOLLM2, "trec", TREC_NOUNS),
    Row("ag_news-smollm2", SMOLLM2, "ag_news", NEWS, most=1_000),
    Row("emotion-smollm2", SMOLLM2, "emotion", "joy, sadness, anger, fear, love, surprise"),
)


def run(row: Row) -> dict[str, Any]:
    """Score one row."""
    examples = list(Source(TASK, {}).read(row.data, "test"))[: row.most]
    options: Any = {"labels": row.labels, "independent": row.independent}
    classifier = TextClassifier.load(row.model, device="cpu", **options)
    before = time.perf_counter()
    scores = classifier.evaluate(examples, progress=True)
    print(f"{row.name}: {scores.accuracy:.2%}", flush=True)
    return {
        "model": row.model,
        "data": row.data,
        "labels": row.labels,
        "independent": row.independent,
        "count": scores.count,
        "accuracy": scores.accuracy,
        "interval": scores.accuracy_interval,
        "macro_f1": scores.macro_f1,
        "majority": max(one.support for one in scores.classes) / scores.count,
        "calibration_error": scores.calibration_error,
        "seconds": round(time.perf_counter() - before, 1),
    }


def show(result: dict[str, Any]) -> None:
    """Write the table of the document."""
    rows = [
        {
            "test data": TITLES[row["data"]],
            "texts": f"{row['count']:,}",
            "model": row["model"] + (", `--independent`" if row["independent"] else ""),
            "accuracy": f"{row['accuracy']:.1%}",
            "95 %": "{:.1%} to {:.1%}".format(*row["interval"]),
            "macro-F1": f"{row['macro_f1']:.1%}",
            "largest class": f"{row['majority']:.1%}",
            "target": f"{TARGETS[row['data']]}%" if row["data"] in TARGETS else "-",
            "seconds": f"{row['seconds']:,.0f}",
            "labels": f"`{row['labels']}`".replace("|", "\\|"),
        }
        for row in result["rows"].values()
    ]
    publish("zero_shot", f"{markdown_table(rows)}\n\n{provenance(FILE, result)}", DOCUMENT)


if __name__ == "__main__":
    campaign(__doc__ or "", FILE, ROWS, run, show)

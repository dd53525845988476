"""The scores of the models that ship, measured again on their test parts.

    make results-quick                     measure, and compare with what is published
    make results-quick ARGS=--publish      and publish it

Each score must lie in the published interval, 95 %, or the command fails. What is not on this
machine (QKV_DATA names the folder of the data) is named and left out.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save

from qkv.data.dates import LOCALES, date_pairs
from qkv.errors import DataError, MissingDependencyError
from qkv.evaluation.intervals import bootstrap_interval
from qkv.explorer.tables import markdown_table, show_table
from qkv.tasks.evaluate_command import Asked, measure
from qkv.tasks.translation.translator import Translator

DOCUMENT, FILE = DOCS / "results.md", RESULTS / "zoo.json"
N_DATES = 5_000

Score = tuple[str, float, tuple[float, float]]  # name, value, 95 %


def scored(name: str, data: str, **columns: str) -> Any:
    """What `qkv evaluate NAME --data DATA` finds."""
    return measure(name, Asked(data, "test", columns, None), None, device="cpu")[0]


def percent(name: str, share: float, interval: tuple[float, float]) -> Score:
    """A share, and its interval, of 100."""
    return name, 100 * share, (100 * interval[0], 100 * interval[1])


def of_dates() -> list[Score]:
    """The share of new dates that come out character for character."""
    drawn = islice(date_pairs(LOCALES, split="test", seed=1), N_DATES)
    pairs = [(pair.text, pair.iso) for pair in drawn]
    said = Translator.load("dates")([text for text, _ in pairs])
    right = [float(one == iso) for one, (_, iso) in zip(said, pairs, strict=True)]
    return [percent("exact match", sum(right) / len(right), bootstrap_interval(right))]


def of_translator() -> list[Score]:
    """BLEU and chrF2, as sacreBLEU has them."""
    found = scored("translator-en-de", "tatoeba", source="en", target="de")
    named = {"BLEU": found.bleu, "chrF2": found.chrf}
    return [(name, one.score, one.interval) for name, one in named.items()]


def of_summarizer() -> list[Score]:
    """F1 of ROUGE."""
    found = scored("summarizer", "docstrings")
    named = {"ROUGE-1": found.rouge1, "ROUGE-2": found.rouge2, "ROUGE-L": found.rouge_l}
    return [(name, one.f1, one.interval) for name, one in named.items()]


def of_answerer() -> list[Score]:
    """As SQuAD scores."""
    found = scored("answerer", "qamr")
    return [
        ("F1", found.f1, found.f1_interval),
        ("exact match", found.exact_match, found.exact_match_interval),
    ]


def of_generator() -> list[Score]:
    """How well it foretells docstrings that it has not seen."""
    found = scored("generator", "docstrings")
    return [("perplexity of a token", found.perplexity, found.perplexity_interval)]


def of_classes(name: str, data: str) -> list[Score]:
    """The share that is right."""
    found = scored(name, data)
    return [percent("accuracy", found.accuracy, found.accuracy_interval)]


MEASURES: dict[str, tuple[str, Callable[[], list[Score]]]] = {
    "dates": (f"{N_DATES:,} new dates", of_dates),
    "translator-en-de": ("tatoeba, test", of_translator),
    "summarizer": ("docstrings, test", of_summarizer),
    "answerer": ("qamr, test", of_answerer),
    "sentiment": ("reviews, test", partial(of_classes, "sentiment", "reviews")),
    "generator": ("docstrings, test", of_generator),
    "recognizer": ("digits, test", partial(of_classes, "recognizer", "digits")),
}


def measured() -> list[dict[str, Any]]:
    """One entry a score; an entry with a "problem" has none."""
    found: list[dict[str, Any]] = []
    for name, (data, score) in MEASURES.items():
        print(f"{name}: {data} ...", file=sys.stderr, flush=True)
        before = time.perf_counter()
        try:
            scores = score()
        except (DataError, MissingDependencyError) as error:
            found.append({"model": name, "data": data, "problem": str(error)})
            continue
        seconds = round(time.perf_counter() - before, 1)
        found += [
            {
                "model": name,
                "data": data,
                "score": kind,
                "value": round(value, 3),
                "interval": [round(number, 3) for number in interval],
                "seconds": seconds,
            }
            for kind, value, interval in scores
        ]
    return found


def rows_of(entries: list[dict[str, Any]], published: dict[str, Any]) -> list[dict[str, str]]:
    """What a person reads: the scores, and those that are published."""
    known = {(e["model"], e["score"]): e for e in published.get("scores", ())}
    rows = []
    for entry in entries:
        old = known.get((entry["model"], entry.get("score")))
        rows.append(
            {
                "model": entry["model"],
                "data": entry["data"],
                "score": entry.get("score", entry.get("problem", "")),
                "now": f"{entry['value']:.2f}" if "value" in entry else "-",
                "published": f"{old['value']:.2f}" if old else "-",
                "95 %": "{:.2f} to {:.2f}".format(*old["interval"]) if old else "-",
                "seconds": f"{entry['seconds']:.0f}" if "seconds" in entry else "-",
            }
        )
    return rows


def far(entries: list[dict[str, Any]], published: dict[str, Any]) -> list[str]:
    """What lies outside the published interval."""
    known = {(e["model"], e["score"]): e["interval"] for e in published.get("scores", ())}
    found = []
    for entry in entries:
        interval = known.get((entry["model"], entry.get("score")))
        if interval and "value" in entry and not interval[0] <= entry["value"] <= interval[1]:
            found.append(
                f"{entry['model']}: {entry['score']} {entry['value']:.2f}; expected, as published, "
                f"{interval[0]:.2f} to {interval[1]:.2f}"
            )
    return found


def markdown(result: dict[str, Any]) -> str:
    """The block of the document."""
    rows = [
        {
            "model": entry["model"],
            "test part": entry["data"],
            "score": entry["score"],
            "value": f"{entry['value']:.2f}",
            "95 %": "{:.2f} to {:.2f}".format(*entry["interval"]),
            "seconds": f"{entry['seconds']:.0f}",
        }
        for entry in result["scores"]
    ]
    return f"{markdown_table(rows)}\n\n{provenance(FILE, result)}"


def main() -> None:
    """Measure, compare, and publish if asked to."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--publish", action="store_true", help="keep these scores, and show them")
    options = parser.parse_args()
    published = load(FILE) if FILE.is_file() else {}
    if not options.publish_only:
        before = time.perf_counter()
        entries = measured()
        show_table("The shipped models", rows_of(entries, published))
        print(f"{time.perf_counter() - before:.0f} seconds")
        if not options.publish:
            if problems := far(entries, published):
                raise SystemExit("\n".join(problems))
            return
        if missing := [entry["problem"] for entry in entries if "problem" in entry]:
            raise SystemExit("not published, for something was not measured: " + missing[0])
        published = {"scores": entries, "machine": machine()}
        save(FILE, published)
    publish("zoo", markdown(published), DOCUMENT)


if __name__ == "__main__":
    main()

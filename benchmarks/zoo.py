"""The scores of the shipped models, measured again on their test splits.

    make results-quick                     measure, and compare with what is published
    make results-quick ARGS=--publish      and publish it
    make results-quick ARGS="--only sentiment --publish"   the scores of one model

Each score must be the published one, within 1 %, or the command fails. What is not on this
machine (QKV_DATA names the folder of the data) is named and left out.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save
from _scores import (
    Score,
    number,
    of_answers,
    of_classes,
    of_entities,
    of_summaries,
    of_texts,
    of_translations,
    percent,
)

from qkv.data.dates import LOCALES, date_pairs
from qkv.data.sets.everyday import everyday
from qkv.errors import DataError, MissingDependencyError
from qkv.evaluation.intervals import proportion_interval
from qkv.tasks.splits import Source
from qkv.tasks.task import find_task, task_of
from qkv.tasks.translation import Translator
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, FILE = DOCS / "results.md", RESULTS / "zoo.json"
N_DATES = 5_000
NEAR = 0.01  # of a score: other processors round otherwise


def scored(name: str, data: str, **columns: str) -> dict[str, Any]:
    """Return the scores that `qkv evaluate NAME --data DATA` prints."""
    task = find_task(task_of(name))
    examples = Source(task, columns).read(data, "test")
    return asdict(task.pipeline.load(name, device="cpu").evaluate(examples, progress=True))


def of_dates() -> list[Score]:
    """The share of new dates that come out character for character."""
    drawn = islice(date_pairs(LOCALES, split="test", seed=1), N_DATES)
    pairs = [(pair.text, pair.iso) for pair in drawn]
    right = round(Translator.load("dates").exact_match(pairs) * len(pairs))
    interval = proportion_interval(right, len(pairs))
    return [percent("exact match, %", right / len(pairs), interval)]


def of_calibration(part: dict[str, Any]) -> list[Score]:
    """Accuracy, and how far the probabilities are from it."""
    return [*of_classes(part), percent("calibration error, %", part["calibration_error"])]


def of_opinions(name: str, data: str) -> list[Score]:
    """Accuracy and calibration error; 100 texts are too few for the latter."""
    part = scored(name, data)
    return of_classes(part) if data == "clear_opinions" else of_calibration(part)


def of_everyday(name: str, source: str) -> list[Score]:
    """chrF2 with two references, and the share of sentences that keep all names and numbers."""
    import sacrebleu

    sentences = everyday(source)
    outputs = list(map(str, Translator.load(name).predict([one.source for one in sentences])))
    references = [list(one) for one in zip(*(one.references for one in sentences), strict=True)]
    chrf = sacrebleu.corpus_chrf(outputs, references).score
    kept = [
        all(part in output for part in one.keep)
        for one, output in zip(sentences, outputs, strict=True)
    ]
    named = [right for right, one in zip(kept, sentences, strict=True) if one.keep]
    return [
        Score("chrF2, two references", chrf, None),
        Score("of 120 keep all names and numbers", sum(kept), None),
        Score(f"of {len(named)} with names or numbers", sum(named), None),
    ]


def of_pairs(name: str, source: str, target: str) -> list[Score]:
    """BLEU and chrF2 on Tatoeba."""
    return of_translations(scored(name, "tatoeba", source=source, target=target))


# Model, test data, scores: one row each.
MEASURES: tuple[tuple[str, str, Callable[[], list[Score]]], ...] = (
    ("dates", f"{N_DATES:,} new dates", of_dates),
    ("translator-en-de", "tatoeba, test", lambda: of_pairs("translator-en-de", "en", "de")),
    ("translator-en-de", "everyday, test", lambda: of_everyday("translator-en-de", "en")),
    ("translator-de-en", "tatoeba, test", lambda: of_pairs("translator-de-en", "de", "en")),
    ("translator-de-en", "everyday, test", lambda: of_everyday("translator-de-en", "de")),
    ("tagger", "town_news, test", lambda: of_entities(scored("tagger", "town_news"))),
    ("summarizer", "docstrings, test", lambda: of_summaries(scored("summarizer", "docstrings"))),
    ("answerer", "passages, test", lambda: of_answers(scored("answerer", "passages"))),
    ("answerer-small", "passages, test", lambda: of_answers(scored("answerer-small", "passages"))),
    ("answerer-small", "qamr, test", lambda: of_answers(scored("answerer-small", "qamr"))),
    *(
        (name, data, lambda name=name, data=data: of_opinions(name, data))
        for name in ("sentiment", "sentiment-small")
        for data in ("reviews", "clear_opinions", "sst2:validation")
    ),
    ("generator", "docstrings, test", lambda: of_texts(scored("generator", "docstrings"))),
    ("recognizer", "digits, test", lambda: of_classes(scored("recognizer", "digits"))),
    *(
        (
            "recognizer",
            f"written_digits, {split}",
            lambda split=split: of_classes(scored("recognizer", f"written_digits:{split}")),
        )
        for split in ("dark", "light", "mouse")
    ),
)


ORDER = list(dict.fromkeys(name for name, _, _ in MEASURES))


def measured(only: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a score, of these models or of all; an entry with a "problem" has none."""
    found: list[dict[str, Any]] = []
    for name, data, score in MEASURES:
        if only and name not in only:
            continue
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
                "score": one.name,
                "value": one.value,
                "interval": one.interval,
                "seconds": seconds,
            }
            for one in scores
        ]
    return found


def key(entry: dict[str, Any]) -> tuple[str, ...]:
    """What an entry is the score of."""
    return entry["model"], entry["data"], entry.get("score", "")


def rows_of(entries: list[dict[str, Any]], published: dict[str, Any]) -> list[dict[str, str]]:
    """What a person reads: the scores, and those that are published."""
    known = {key(e): e for e in published.get("scores", ())}
    rows = []
    for entry in entries:
        old = known.get(key(entry))
        rows.append(
            {
                "model": entry["model"],
                "data": entry["data"],
                "score": entry.get("score", entry.get("problem", "")),
                "now": number(entry["score"], entry["value"]) if "value" in entry else "-",
                "published": number(old["score"], old["value"]) if old else "-",
                "seconds": f"{entry['seconds']:.0f}" if "seconds" in entry else "-",
            }
        )
    return rows


def far(entries: list[dict[str, Any]], published: dict[str, Any]) -> list[str]:
    """What is not the published score."""
    known = {key(e): e["value"] for e in published.get("scores", ())}
    found = []
    for entry in entries:
        old = known.get(key(entry))
        if old and "value" in entry and abs(entry["value"] / old - 1) > NEAR:
            found.append(
                f"{entry['model']}: {entry['score']} {entry['value']:.3f}; expected, as published, "
                f"{old:.3f} (within {NEAR:.0%})"
            )
    return found


def markdown(result: dict[str, Any]) -> str:
    """The block of the document."""
    rows = [
        {
            "model": entry["model"],
            "test data": entry["data"],
            "score": entry["score"],
            "value": number(entry["score"], entry["value"]),
            "95 %": "{:.2f} to {:.2f}".format(*entry["interval"]) if entry["interval"] else "-",
            "seconds": f"{entry['seconds']:.0f}",
        }
        for entry in result["scores"]
    ]
    return f"{markdown_table(rows)}\n\n{provenance(FILE, result)}"


def main() -> None:
    """Measure, compare, and publish if asked to."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--publish", action="store_true", help="keep these scores, and show them")
    parser.add_argument("--only", nargs="+", default=(), help="names of models; the others stay")
    options = parser.parse_args()
    published = load(FILE) if FILE.is_file() else {}
    if not options.publish_only:
        before = time.perf_counter()
        entries = measured(options.only)
        show_table("The shipped models", rows_of(entries, published))
        print(f"{time.perf_counter() - before:.0f} seconds")
        if not options.publish:
            if problems := far(entries, published):
                raise SystemExit("\n".join(problems))
            return
        if missing := [entry["problem"] for entry in entries if "problem" in entry]:
            raise SystemExit("not published, for something was not measured: " + missing[0])
        if options.only:
            kept = [one for one in published["scores"] if one["model"] not in options.only]
            entries = sorted([*kept, *entries], key=lambda one: ORDER.index(one["model"]))
        published = {"scores": entries, "machine": machine()}
        save(FILE, published)
    publish("zoo", markdown(published), DOCUMENT)


if __name__ == "__main__":
    main()

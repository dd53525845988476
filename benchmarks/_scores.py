"""The published scores of each task, out of what its evaluation says (`results.json`, a part)."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Score(NamedTuple):
    """A number of a table, and its interval, 95 %, if there is one."""

    name: str
    value: float
    interval: tuple[float, float] | None


def of_translations(part: Mapping[str, Any]) -> list[Score]:
    """By sacreBLEU."""
    named = {"BLEU, lower-cased": "bleu_lowercase", "BLEU": "bleu", "chrF2": "chrf"}
    return [
        Score(name, part[kind]["score"], part[kind]["interval"]) for name, kind in named.items()
    ]


def of_summaries(part: Mapping[str, Any]) -> list[Score]:
    """F1 of ROUGE, against the first reference, and the best of several where there are any."""
    named = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rouge_l"}
    by_first = part.get("by_first")
    sides = ((by_first, ""), (part, ", best of all")) if by_first else ((part, ""),)
    return [
        Score(f"{name}{of}", side[kind]["f1"], side[kind]["interval"])
        for side, of in sides
        for name, kind in named.items()
    ]


def of_answers(part: Mapping[str, Any]) -> list[Score]:
    """As SQuAD scores; of models that abstain, also how well they do, and what it costs."""
    named = {
        "F1": "f1",
        "exact match": "exact_match",
        "F1 of no answer": "no_answer_f1",
        "precision of no answer": "no_answer_precision",
        "recall of no answer": "unanswerable_accuracy",
    }
    if part["n_answerable"] < part["count"]:
        named |= {"F1, answerable": "answerable_f1"}
    named |= {"F1, answerable, always answering": "always_f1"}
    named |= {"exact match, answerable, always answering": "always_exact_match"}
    return [
        Score(name, part[kind], part.get(f"{kind}_interval"))
        for name, kind in named.items()
        if part.get(kind) is not None  # older results lack some
    ]


def of_texts(part: Mapping[str, Any]) -> list[Score]:
    """How well texts were foretold."""
    return [
        Score("nats per token", part["loss"], part["loss_interval"]),
        Score("bits per character", part["bits_per_character"], None),
    ]


def of_classes(part: Mapping[str, Any]) -> list[Score]:
    """The share that is right, of texts, pairs of texts or images."""
    return [percent("accuracy, %", part["accuracy"], part["accuracy_interval"])]


def of_entities(part: Mapping[str, Any]) -> list[Score]:
    """Return the F1 of entities."""
    return [percent("entity F1, %", part["f1"], part["f1_interval"])]


def percent(name: str, share: float, interval: tuple[float, float] | None = None) -> Score:
    """A share, and its interval, of 100."""
    return Score(name, 100 * share, interval and (100 * interval[0], 100 * interval[1]))


def number(score: str, value: float) -> str:
    """A score as tables show it: a loss with three digits, for its differences are small."""
    return f"{value:.3f}" if score.startswith("nats") else f"{value:.2f}"

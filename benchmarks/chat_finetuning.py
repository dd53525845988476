"""A language model before and after `qkv train chat`: docstrings of Python functions.

    python benchmarks/chat_finetuning.py            train what is missing, and measure
    python benchmarks/chat_finetuning.py --publish-only

The recipe `chat` fine-tunes smollm2 by LoRA, with three seeds. Each model then writes the
docstrings of functions of the test split, which no training has seen, with its default settings.
Three things are measured, with 95 % intervals: ROUGE-L against the docstring's own first line, how
many replies are one line of at most 30 words, and how many words they have.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save, train

from qkv.data.conversations import Conversation
from qkv.data.sets import load_set
from qkv.evaluation.intervals import bootstrap_interval, proportion_interval
from qkv.evaluation.summarization import summary_scores
from qkv.tasks.chat import Chat
from qkv.tutorial.tables import markdown_table, show_table

FILE, DOCUMENT = RESULTS / "chat_finetuning.json", DOCS / "results.md"
SEEDS = (0, 1, 2)
COMMAND = ("train", "chat")
SHOWN = 3  # functions whose docstrings are kept, to be read


def measured(model: str, talks: Sequence[Conversation]) -> dict[str, Any]:
    """Return the scores of the docstrings that a model writes."""
    questions = [one.messages[-2]["content"] for one in talks]
    truth = [one.messages[-1]["content"] for one in talks]
    replies = [one.text for one in Chat.load(model).predict(questions, progress=True)]
    words = [float(len(text.split())) for text in replies]
    short = sum("\n" not in text and len(text.split()) <= 30 for text in replies)
    rouge = summary_scores(replies, [(one,) for one in truth]).rouge_l
    chosen = random.Random(0).sample(range(len(talks)), SHOWN)
    return {
        "rouge_l": rouge.f1,
        "rouge_l_interval": rouge.interval,
        "short": 100 * short / len(replies),
        "short_interval": [100 * x for x in proportion_interval(short, len(replies))],
        "words": sum(words) / len(words),
        "words_interval": bootstrap_interval(words, [1] * len(words)),
        "examples": [
            {"function": questions[i], "docstring": truth[i], "reply": replies[i]} for i in chosen
        ],
    }


def row(name: str, one: dict[str, Any], seconds: str) -> dict[str, str]:
    """Return a model's row of the table."""

    def cell(key: str, unit: str = "") -> str:
        low, high = one[f"{key}_interval"]
        return f"{one[key]:.1f}{unit} ({low:.1f} to {high:.1f})"

    return {
        "model": name,
        "ROUGE-L": cell("rouge_l"),
        "one short line": cell("short", " %"),
        "words": cell("words"),
        "training, s": seconds,
    }


def main() -> None:
    """Train, measure, publish."""
    parser = arguments(__doc__ or "")
    options = parser.parse_args()
    result = load(FILE) if FILE.is_file() else {"before": None, "seeds": {}}
    if not options.publish_only:
        talks = load_set("chat", "docstrings", "test")
        result |= {"machine": machine("transformers"), "functions": len(talks)}
        for seed in SEEDS:
            if str(seed) in result["seeds"]:
                continue
            output = Path("out/chat_finetuning") / str(seed)
            done = train([*COMMAND, "--training.seed", str(seed), "--output", str(output)], output)
            own = measured(str(output), talks)
            own |= {name: done[name] for name in ("train_seconds", "threads", "trained_parameters")}
            result["seeds"][str(seed)] = own
            save(FILE, result)
        if result["before"] is None:
            result["before"] = measured("smollm2", talks)
            save(FILE, result)
    rows = [row("smollm2", result["before"], "-")]
    for seed, own in result["seeds"].items():
        rows.append(row(f"fine-tuned, seed {seed}", own, f"{own['train_seconds']:.0f}"))
    show_table("docstrings of functions that no training has seen", rows)
    publish("chat", f"{markdown_table(rows)}\n\n{provenance(FILE, result)}", DOCUMENT)


if __name__ == "__main__":
    main()

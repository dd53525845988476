"""What packed weights cost in quality: the same scores for every dtype, on validation data."""

import gzip
from collections.abc import Callable, Sequence
from typing import Any

from _common import RESULTS, arguments, load, machine, provenance, publish, save
from rich.console import Console

from qkv.data.text import find_data
from qkv.tasks.splits import Source
from qkv.tasks.task import find_task
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "quality.json"
DTYPES = ("float32", "bfloat16", "int8", "int4")
PARAGRAPHS = 60


def accuracy(dtype: str) -> float:
    """Accuracy of the small sentiment model on the opinions of validation, in percent."""
    task = find_task("classify")
    examples = Source(task, {}).read("opinions", "validation")
    classifier = task.pipeline.load("sentiment-small", device="cpu", dtype=dtype)
    return 100 * classifier.evaluate(examples).accuracy


def bleu(dtype: str) -> float:
    """BLEU of the translator on 300 sentences of Tatoeba's validation part."""
    task = find_task("translate")
    examples = Source(task, {"source": "en", "target": "de"}).read("tatoeba", "validation")
    translator = task.pipeline.load("translator-en-de", device="cpu", dtype=dtype)
    return translator.evaluate(examples[:300]).bleu.score


def perplexity(dtype: str) -> float:
    """Perplexity of SmolLM2 on paragraphs of WikiText-2's validation part."""
    path = find_data("wikitext2") / "valid.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    texts = [line.strip() for line in lines if len(line) > 200][:PARAGRAPHS]
    pipeline: Any = find_task("generate").pipeline.load("smollm2", device="cpu", dtype=dtype)
    return pipeline.evaluate(texts).perplexity


ROWS: dict[str, Callable[[str], float]] = {
    "sentiment-small, accuracy on its validation part, %": accuracy,
    "translator-en-de, BLEU of 300 sentences of validation": bleu,
    "SmolLM2, perplexity of 60 paragraphs of WikiText-2, validation": perplexity,
}


def measure(dtypes: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = load(PATH)["scores"] if PATH.exists() else {name: {} for name in ROWS}
    for name, score in ROWS.items():
        for dtype in dtypes:
            found[name][dtype] = score(dtype)
            Console().print(f"{name}, {dtype}: {found[name][dtype]:.3f}")
    return {"scores": found, "machine": machine()}


def report(result: dict[str, Any]) -> None:
    rows = [
        {"model and score": name} | {dtype: f"{one[dtype]:.2f}" for dtype in DTYPES}
        for name, one in result["scores"].items()
    ]
    show_table("quality by dtype", rows)
    publish("quality", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", choices=DTYPES, default=DTYPES, help="dtypes")
    options = parser.parse_args()
    if not options.publish_only:
        save(PATH, measure(options.only))
    report(load(PATH))


if __name__ == "__main__":
    main()

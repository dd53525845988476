"""Reranking: which weight, and how many candidates, translate Tatoeba's validation split best?

Each shipped translator searches once for every beam size, and the one of the opposite direction
scores all candidates once; the weights differ in what is chosen of them.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save

from qkv.data.sets.tatoeba import tatoeba
from qkv.evaluation.translation import translation_scores
from qkv.tasks.optimizing import optimize
from qkv.tasks.reranking import mean_log_probabilities, reranked
from qkv.tasks.sources import choose, read_source
from qkv.tasks.translation import Translator
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "reranking.json"
MODELS = {"translator-en-de": "translator-de-en", "translator-de-en": "translator-en-de"}
SIZES = (5, 8, 12)
WEIGHTS = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0)


def translator(path: str, size: int) -> Translator:
    """Load a translator that returns all candidates of its beam, without a reverse model."""
    found = Translator.load(path, reverse="none")
    beam = replace(found.beam, size=size, n_best=size)
    return replace(found, loaded=optimize(found.loaded, "float32"), beam=beam)


def measure(forward: str, backward: str, size: int, *, german: bool) -> dict[str, Any]:
    """Return BLEU by weight, and the seconds of the search and of the reverse model."""
    pairs = [(b, a) if german else (a, b) for a, b in tatoeba()["validation"]]
    ours, reverse = translator(forward, size), translator(backward, 2)
    options = ours.tokenizer, ours.limit, ours.copying
    sources = [read_source(source, *options) for source, _ in pairs]
    parts = [part for source in sources for part in source.parts]
    begun = time.perf_counter()
    found = ours.decoder(ours.model, [part.tokens for part in parts], rows=256, progress=True)
    searched = time.perf_counter()
    texts = [[ours.target.decode(one.text) for one in answers] for answers in found]
    read = [ours.tokenizer.decode(part.tokens) for part in parts]
    asked = [(text, source) for source, some in zip(read, texts, strict=True) for text in some]
    said = iter(mean_log_probabilities(reverse, asked))
    scores = [[next(said) for _ in answers] for answers in found]
    seconds = {"search": searched - begun, "reverse": time.perf_counter() - searched}
    bleu = {}
    for weight in WEIGHTS:
        chosen = []
        for part, answers, own in zip(parts, found, scores, strict=True):
            ranked = reranked(answers, own, weight)
            written = [ours.target.decode(one.text) for one in ranked]
            chosen.append(choose(part, ranked, written, ours.copying).texts[0])
        left = iter(chosen)
        whole = [" ".join(next(left) for _ in source.parts) for source in sources]
        named = translation_scores(whole, [target for _, target in pairs], samples=2).named
        bleu[str(weight)] = named["BLEU"]
    return {"BLEU": bleu, **seconds}


def report(result: dict[str, Any]) -> None:
    """Show the table, and write it into the document."""
    rows = [
        {
            "model": name,
            "beam": size,
            **{f"weight {weight}": f"{bleu:.2f}" for weight, bleu in one["BLEU"].items()},
            "seconds": f"{one['search']:.0f} + {one['reverse']:.0f}",
        }
        for name, sizes in result["models"].items()
        for size, one in sizes.items()
    ]
    show_table("BLEU on Tatoeba's validation split", rows)
    publish(
        "reranking", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}", DOCS / "results.md"
    )


def main() -> None:
    """Measure both translators, and publish."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    if not options.publish_only:
        models = {
            name: {
                str(size): measure(name, other, size, german=name != "translator-en-de")
                for size in SIZES
            }
            for name, other in MODELS.items()
        }
        save(PATH, {"models": models, "machine": machine("sacrebleu")})
    report(load(PATH))


if __name__ == "__main__":
    main()

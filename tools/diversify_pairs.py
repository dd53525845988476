"""Write more pairs for a translator to train on: those that other translators make of the same.

    python tools/diversify_pairs.py translator-de-en out/back.tsv
    python tools/diversify_pairs.py translator-en-de out/forward.tsv

A model translates the source sentences of Tatoeba's training split. A translation is kept if it is
near a reference, and none itself. Those of the opposite direction are back-translations (Sennrich
et al. 2016, https://arxiv.org/abs/1511.06709); training on all of them, and on the real pairs, is
data diversification (Nguyen et al. 2020, https://arxiv.org/abs/1911.01986).
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from sacrebleu.metrics import CHRF

from qkv.data.sets.tatoeba import plain, tatoeba
from qkv.tasks.optimizing import optimize
from qkv.tasks.translation import Translator

LEAST = 50  # chrF2 of a hypothesis that counts as a translation
CHUNK = 10_000  # sentences between two lines of progress


def diversify(translator: Translator, references: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return (source, translation) of each source that has a good translation of another wording.

    Args:
        translator: a translator.
        references: the known translations of each source.
    """
    chrf, made = CHRF(), []
    for found in translator.predict(list(references)):
        known = sorted(references[found.text])
        new = plain([found.translation])[0] not in plain(known)
        if new and chrf.sentence_score(found.translation, known).score >= LEAST:
            made.append((found.text, found.translation))
    return made


def main() -> None:
    """Translate the training split, a chunk at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=("translator-de-en", "translator-en-de"))
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    german = args.model == "translator-de-en"  # the source

    references = defaultdict[str, set[str]](set)
    for english, text in tatoeba()["train"]:
        source, target = (text, english) if german else (english, text)
        references[source].add(target)
    translator = Translator.load(args.model)
    translator = replace(translator, loaded=optimize(translator.loaded, "auto"))
    sources = sorted(references, key=len)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, dialect="excel-tab")
        rows.writerow(("en", "de"))
        for first in range(0, len(sources), CHUNK):
            some = {source: references[source] for source in sources[first : first + CHUNK]}
            for source, text in diversify(translator, some):
                rows.writerow((text, source) if german else (source, text))
            print(f"{min(first + CHUNK, len(sources)):,} of {len(sources):,} sentences", flush=True)


if __name__ == "__main__":
    main()

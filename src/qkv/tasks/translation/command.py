"""`qkv translate`: a trained translator on texts and files."""

from dataclasses import replace
from pathlib import Path

from qkv.evaluation.translation import CorpusScore, TranslationScores
from qkv.tasks.inputs import answer_all, pick_device, remark, text_items
from qkv.tasks.translation.results import Translation
from qkv.tasks.translation.translator import Translator

DEFAULT = "translator-en-de"  # of the zoo


def translate(
    *texts: str,
    model: str = DEFAULT,
    file: Path | None = None,
    column: str = "text",
    json: bool = False,
    beam: int | None = None,
    n_best: int = 1,
    max_length: int | None = None,
    device: str = "auto",
    allow_download: bool = False,
) -> None:
    """Translate texts: arguments, a file, or the lines of standard input.

    A text that is too long for the model is split at the ends of its sentences, a sentence that is
    too long cut; a note says so.

    Args:
        texts: each an argument.
        model: (or -m) a folder that qkv train made, a name of the zoo or an id of the Hugging Face
            Hub (Marian, BART, T5).
        file: (or -f) a .csv, .tsv, .jsonl or .parquet table of texts, or a .txt file of one text a
            line.
        column: of the table.
        json: one JSON object a text, with score, candidates and note.
        beam: beginnings that are followed side by side, 1 to write greedily; as the model's files
            say if not given.
        n_best: how many candidates --json shows, at most as many as the beam has.
        max_length: tokens of a translation, of which the rest is cut off; as the model's files say
            if not given.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
        allow_download: ask the Hub for a base that a file of the model names.
    """
    items = text_items(texts, file, {"text": column})
    translator = Translator.load(
        model,
        beam=beam,
        max_length=max_length,
        device=pick_device(device),
        allow_download=allow_download,
    )
    translator = replace(translator, beam=replace(translator.beam, n_best=n_best))
    answer_all(
        items,
        lambda asked: translator([one["text"] for one in asked], progress=True),
        line=_as_line,
        as_json=json,
    )


def _as_line(translation: Translation) -> str:
    """The translation in its line; what else there is to know goes where the errors go."""
    remark(translation.text, translation.note)
    return " ".join(translation.split())


def tables_of(scores: TranslationScores) -> dict[str, list[dict[str, str]]]:
    """The scores as a table."""
    named: dict[str, CorpusScore] = {
        "BLEU": scores.bleu,
        "BLEU, lower-cased": scores.bleu_lowercase,
        "chrF2": scores.chrf,
    }
    return {
        f"{scores.count:,} texts": [
            {
                "score": name,
                "value": f"{one.score:.2f}",
                "95 %": f"{one.interval[0]:.2f} to {one.interval[1]:.2f}",
                "signature": one.signature,
            }
            for name, one in named.items()
        ]
    }

"""`qkv translate`: a trained translator on texts and files."""

from dataclasses import replace

from qkv.evaluation.translation import CorpusScore, TranslationScores
from qkv.tasks.inputs import pick_device, text_items
from qkv.tasks.options import (
    AllowDownload,
    Columns,
    Device,
    File,
    Json,
    Model,
    Output,
    name_columns,
)
from qkv.tasks.outputs import answer_all, remark
from qkv.tasks.translation.results import Translation
from qkv.tasks.translation.translator import Translator

DEFAULT = "translator-en-de"  # of the zoo


def translate(
    *texts: str,
    model: Model = DEFAULT,
    file: File = None,
    columns: Columns = None,
    output: Output = None,
    json: Json = False,
    beam: int | None = None,
    n_best: int = 1,
    max_length: int | None = None,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Translate texts from arguments, a file, or standard input.

    A text that is too long for the model is split into sentences, and a sentence that is too long
    is truncated; a note on standard error says so.

    Args:
        texts: the texts to translate, one per argument.
        beam: beam size; 1 is greedy decoding. Default: as the model's files say.
        n_best: number of candidates that --json shows, at most the beam size.
        max_length: tokens of a translation, of which the rest is cut off; as the model's files say
            if not given.
    """
    items = text_items(texts, file, name_columns(columns, "text"))
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
        output=output,
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

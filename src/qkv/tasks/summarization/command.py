"""`qkv summarize`: texts in a line each, written or copied by a trained model."""

from pathlib import Path

from qkv.tasks.inputs import answer_all, pick_device, remark, text_items
from qkv.tasks.summarization.summarizer import Summarizer, Summary

DEFAULT = "summarizer"  # of the zoo


def summarize(
    *texts: str,
    model: str = DEFAULT,
    file: Path | None = None,
    column: str = "text",
    beam: int | None = None,
    json: bool = False,
    device: str = "auto",
    allow_download: bool = False,
) -> None:
    """Summarize texts: arguments, a file, or the lines of standard input.

    Args:
        texts: each an argument.
        model: (or -m) a folder that qkv train made, a name of the zoo or an id of the Hugging Face
            Hub.
        file: (or -f) a .csv, .tsv, .jsonl or .parquet table of texts, or a .txt file of one text a
            line.
        column: of the table.
        beam: how many beginnings go on side by side; 1 is greedy; as in training if not given.
        json: one JSON object a text, with the summary's score, and whether the text was cut.
        device: auto (an accelerator if there is one), cpu, cuda or mps.
        allow_download: ask the Hub for a base that a file of the model names.
    """
    items = text_items(texts, file, {"text": column})
    summarizer = Summarizer.load(
        model, beam=beam, device=pick_device(device), allow_download=allow_download
    )
    answer_all(
        items,
        lambda asked: summarizer([one["text"] for one in asked], progress=True),
        line=as_line,
        as_json=json,
    )


def as_line(summary: Summary) -> str:
    """The summary alone, in one line. That its text was cut is said where the errors go."""
    if summary.cut:
        remark(summary.text, "too long; the model read its beginning alone")
    return " ".join(summary.summary.split())

"""`qkv summarize`: texts in a line each, written or copied by a trained model."""

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
from qkv.tasks.summarization.summarizer import Summarizer, Summary

DEFAULT = "summarizer"  # of the zoo


def summarize(
    *texts: str,
    model: Model = DEFAULT,
    file: File = None,
    columns: Columns = None,
    output: Output = None,
    beam: int | None = None,
    json: Json = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Summarize texts from arguments, a file, or standard input.

    Args:
        texts: the texts to summarize, one per argument.
        beam: beam size; 1 is greedy decoding. Default: as in training.
    """
    items = text_items(texts, file, name_columns(columns, "text"))
    summarizer = Summarizer.load(
        model, beam=beam, device=pick_device(device), allow_download=allow_download
    )
    answer_all(
        items,
        lambda asked: summarizer([one["text"] for one in asked], progress=True),
        line=as_line,
        as_json=json,
        output=output,
    )


def as_line(summary: Summary) -> str:
    """The summary alone, in one line. That its text was cut is said where the errors go."""
    if summary.cut:
        remark(summary.text, "too long; the model read its beginning alone")
    return " ".join(summary.summary.split())

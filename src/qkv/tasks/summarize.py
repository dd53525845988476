"""The options of `qkv summarize`, and how summaries and their scores are shown."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from cyclopts import Parameter

from qkv.errors import ConfigError
from qkv.evaluation.summarization import SummaryScores
from qkv.tasks.commands import Predict, score_row
from qkv.tasks.outputs import remark
from qkv.tasks.prose import DEFAULT, MADE, Summary, check_settings
from qkv.tasks.streams import complain
from qkv.tasks.task import Tables, Task


@dataclass(frozen=True, kw_only=True)
class Summarize(Predict[Any]):
    """Options of `qkv summarize`.

    Args:
        method: extract repeats the most central sentences, by the embeddings of MiniLM; abstract
            asks the language model smollm2 for a summary, which can be wrong; lead repeats the
            first sentences; model uses a model that was trained to summarize, by default the one
            for Python functions; default: by the kind of --model.
        sentences: maximum number of sentences of a summary, for all methods but model; default: 1,
            for abstract 2.
        beam: beam size, for the method model; 1 is greedy decoding; default: as in training.
    """

    file: Annotated[
        Path | None,
        Parameter(
            alias="-f",
            help="a .txt file with one text, such as an e-mail, or a table (.csv, .tsv, .jsonl, "
            ".parquet) with one text per row",
        ),
    ] = None
    method: Literal["extract", "abstract", "lead", "model"] | None = None
    sentences: int | None = None
    beam: int | None = None

    inputs: ClassVar = "the texts to summarize, one per argument"
    about: ClassVar = (
        "A .txt file is one text, and so is standard input; a table has one per row. Without "
        f"--method and --model, the method is {DEFAULT}, the best of three by mean ROUGE on "
        "e-mails, dialogues and other prose."
    )
    settings: ClassVar = ("method", "sentences", "beam")
    whole: ClassVar = True

    def check(self) -> None:
        """Check the options that do not depend on the model."""
        check_settings(self.method, sentences=self.sentences, beam=self.beam)
        if self.method == "lead" and self.model is not None:
            raise ConfigError(
                f"--method lead with --model {self.model}; expected one of them: lead repeats the "
                "first sentences and needs no model"
            )

    def load(self, task: Task[Any, Any]) -> Any:
        """Load the model, and report on a terminal how summaries are made."""
        pipeline = super().load(task)
        if sys.stderr is not None and sys.stderr.isatty():
            complain(f"{MADE[pipeline.method]} (--method {pipeline.method})")
        return pipeline

    def line(self, prediction: Summary) -> str:
        """Return the summary in one line."""
        if prediction.cut:
            remark(prediction.text, "too long; the model read only its beginning")
        remark(prediction.text, prediction.note)
        return " ".join(prediction.summary.split())


def summary_tables(scores: SummaryScores) -> Tables:
    """Return the scores as tables: against all references, and against the first alone."""
    tables: Tables = {}
    for part in filter(None, (scores, scores.by_first)):
        named = part.named.items()
        rows = [score_row(f"{name}, F1", one.f1, one.interval) for name, one in named]
        tables[f"{part.count:,} summaries, {part.signature}"] = rows
    return tables


def summary_line(scores: SummaryScores) -> str:
    """Return the scores as one line."""
    line = ", ".join(f"{name} {score.f1:.1f}" for name, score in scores.named.items())
    first = scores.by_first and f"; by the first reference alone {summary_line(scores.by_first)}"
    return f"{line} of {scores.count:,} texts{first or ''}"

"""Extraction of answers from passages, window by window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.data.classification import evaluation_batches, in_order, tokens_at_once
from qkv.data.span_search import (
    Candidate,
    SpanCandidates,
    Spans,
    best_spans,
    merge_windows,
    relative,
)
from qkv.data.text import decode, read_content
from qkv.data.windows import Window, WindowConfig, make_windows
from qkv.errors import ConfigError, DataError
from qkv.tasks.console import progress_bar
from qkv.tasks.inputs import SUFFIXES, check_texts, exists
from qkv.tasks.pipeline import Pipeline, check_strings, tells_texts_apart
from qkv.tasks.streams import as_text

AT_ONCE = 2_000  # questions whose windows are in memory at one time


@dataclass(frozen=True)
class FoundAnswer:
    """The answer to a question.

    Args:
        question: the question.
        context: the passage.
        answer: words of the passage; "" if it does not contain the answer.
        start: index of the answer's first character; None without an answer.
        end: index after its last character; None without an answer.
        confidence: probability of the answer, or of there being none, among all spans.
        no_answer_score: score for "no answer"; above the model's threshold there is no answer.
        n_best: the most probable spans, whether or not there is an answer.
        n_windows: number of windows that were read; 1 if the passage fits the model's input.
    """

    question: str
    context: str
    answer: str
    start: int | None
    end: int | None
    confidence: float
    no_answer_score: float
    n_best: tuple[Candidate, ...]
    n_windows: int


@dataclass(frozen=True)
class IdentifiedAnswer(FoundAnswer):
    """The answer to a question that has an id in its file, as in SQuAD."""

    id: str


def read_passage(context: str) -> str:
    """Return the passage itself, or the content of the file with this name.

    Raises:
        ConfigError: it is empty, or looks like the name of a missing file.
    """
    path = Path(context)
    if exists(path) and path.is_file():
        context = decode(read_content(path), context)
    elif len(context.split()) == 1 and path.suffix.lower() in SUFFIXES and not exists(path):
        raise ConfigError(
            f"--context {context} looks like the name of a file, but there is no such file; "
            "expected a passage, or a file that contains one"
        )
    else:
        check_texts([context])
        context = as_text(context)
    if not context.strip():
        raise ConfigError("--context is empty; expected a passage, or a file that contains one")
    return context


def search(
    pipeline: Pipeline[Any, Any, Any],
    config: WindowConfig,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    n: int,
    progress: bool = False,
) -> list[SpanCandidates]:
    """Return the most probable spans of each passage.

    Args:
        pipeline: a `QuestionAnswering` model with its tokenizer.
        config: how passages are cut into windows.
        questions: one question per passage.
        contexts: the passages.
        n: number of spans to compare per window, and to keep.
        progress: show a progress bar on standard error.

    Raises:
        DataError: a question or a passage is empty, or their numbers differ.
        LengthError: a question leaves no room for its passage.
    """
    check_strings(questions, "question")
    check_strings(contexts, "passage")
    if len(questions) != len(contexts):
        raise DataError(
            f"{len(questions)} questions and {len(contexts)} passages; expected one passage for "
            "all, or one each"
        )
    candidates = list[SpanCandidates]()
    for at in progress_bar(range(0, len(questions), AT_ONCE), "answering", show=progress):
        part = slice(at, at + AT_ONCE)
        candidates += _search_all(pipeline, config, questions[part], contexts[part], n)
    return candidates


def _search_all(
    pipeline: Pipeline[Any, Any, Any],
    config: WindowConfig,
    questions: Sequence[str],
    contexts: Sequence[str],
    n: int,
) -> list[SpanCandidates]:
    """Search all passages at once."""
    windows = make_windows(
        pipeline.tokenizer,
        questions,
        contexts,
        max_length=config.max_length,
        stride=config.stride,
        sentences=config.sentences,
        causal=config.causal,
    )
    rows: list[list[int]] = [[] for _ in questions]
    for i, window in enumerate(windows):
        rows[window.row].append(i)
    spans = _spans(pipeline, config, windows, n)
    if config.sentences:
        spans = relative(spans)
    return [
        merge_windows(context, windows, spans, own, n=n)
        for context, own in zip(contexts, rows, strict=True)
    ]


def _spans(
    pipeline: Pipeline[Any, Any, Any], config: WindowConfig, windows: Sequence[Window], n: int
) -> Spans:
    """Return the best spans of each window; windows of similar length share a batch."""
    segmented = tells_texts_apart(pipeline.model)
    batches = evaluation_batches(
        [window.ids for window in windows],
        pad=pipeline.tokenizer.filler,
        max_tokens=max(tokens_at_once(pipeline.device), config.max_length),
        segments=[window.segments for window in windows] if segmented else None,
    )

    def forward(batch: Any) -> Spans:
        moved = batch.to(pipeline.device)
        logits = pipeline.model(moved.tokens, token_mask=moved.token_mask, segments=moved.segments)
        passage = torch.zeros_like(batch.token_mask)
        for i, row in enumerate(batch.rows):
            first = windows[row].first
            passage[i, first : first + len(windows[row].spans)] = True
        null = torch.tensor([windows[row].null for row in batch.rows])
        return best_spans(logits.cpu().double(), passage, null, max_answer=config.max_answer, n=n)

    outputs = pipeline.run(batches, forward, "answering", progress=False)
    return Spans(*(in_order(batches, _even(column)) for column in zip(*outputs, strict=True)))


def _even(columns: Sequence[Tensor]) -> list[Tensor]:
    """Pad the columns to the same number of spans; padding has score -inf."""
    if columns[0].ndim == 1:
        return list(columns)
    width = max(column.shape[1] for column in columns)
    fill = -math.inf if columns[0].is_floating_point() else 0
    return [F.pad(column, (0, width - column.shape[1]), value=fill) for column in columns]

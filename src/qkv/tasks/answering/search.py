"""Reading passages for the answers to questions, window by window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.data.classification import evaluation_batches, in_order
from qkv.data.tokenizers import Tokenizer
from qkv.data.windows import Window, make_windows
from qkv.errors import ConfigError, DataError
from qkv.models.modes import evaluating
from qkv.tasks.answering.spans import Found, Spans, best_spans, merge_windows
from qkv.tasks.console import plain_console

AT_ONCE = 2_000  # questions whose windows are in memory at one time


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How passages are read; config.json keeps it.

    Args:
        max_length: tokens of a window, question and special tokens included.
        stride: passage tokens from the beginning of one window to that of the next.
        max_answer: the most tokens of an answer.
        threshold: the score for "no answer" above which none is given; None always answers.

    Raises:
        ConfigError: a number below 1.
    """

    max_length: int = 384
    stride: int = 128
    max_answer: int = 30
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check what no question has to be read for."""
        for name in ("max_length", "stride", "max_answer"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1 token")


def search(
    model: nn.Module,
    tokenizer: Tokenizer,
    reading: Reading,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    n: int,
    progress: bool = False,
) -> list[Found]:
    """Find the likeliest spans of each passage, whatever the threshold.

    Args:
        model: a `QuestionAnswering`.
        tokenizer: of the model.
        reading: how passages are cut.
        questions: one a passage.
        contexts: the passages.
        n: how many spans to look at in each window, and to keep.
        progress: show a bar, where the errors go.

    Raises:
        DataError: a question or a passage is empty, or there are other numbers of them.
        LengthError: a question leaves no room for its passage.
    """
    if len(questions) != len(contexts):
        raise DataError(
            f"{len(questions)} questions and {len(contexts)} passages; expected one passage for "
            "all, or one each"
        )
    console = plain_console(stderr=True)
    off = not (progress and console.is_terminal)
    chunks, found = range(0, len(questions), AT_ONCE), list[Found]()
    for at in track(chunks, "answering", console=console, transient=True, disable=off):
        part = slice(at, at + AT_ONCE)
        windows = make_windows(
            tokenizer,
            questions[part],
            contexts[part],
            max_length=reading.max_length,
            stride=reading.stride,
        )
        rows: list[list[int]] = [[] for _ in questions[part]]
        for i, window in enumerate(windows):
            rows[window.row].append(i)
        spans = _spans(model, tokenizer, reading, windows, n)
        found += [
            merge_windows(context, windows, spans, of, n=n)
            for context, of in zip(contexts[part], rows, strict=True)
        ]
    return found


def tells_texts_apart(model: nn.Module) -> bool:
    """Whether a model has vectors for question and passage, such as BERT's segments."""
    return getattr(model.config, "n_segments", 1) > 1


def _spans(
    model: nn.Module, tokenizer: Tokenizer, reading: Reading, windows: Sequence[Window], n: int
) -> Spans:
    """The best spans of each window; windows of like length share a batch."""
    segments = [window.segments for window in windows] if tells_texts_apart(model) else None
    batches = evaluation_batches(
        [window.ids for window in windows],
        pad=tokenizer.filler,
        max_tokens=max(4_000, reading.max_length),
        segments=segments,
    )
    device, outputs = next(model.parameters()).device, list[Spans]()
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            moved = batch.to(device)
            logits = model(moved.tokens, token_mask=moved.token_mask, segments=moved.segments)
            passage = torch.zeros_like(batch.token_mask)
            for i, row in enumerate(batch.rows):
                first = windows[row].first
                passage[i, first : first + len(windows[row].spans)] = True
            logits = logits.cpu().double()
            outputs.append(best_spans(logits, passage, max_answer=reading.max_answer, n=n))
    return Spans(*(in_order(batches, _even(column)) for column in zip(*outputs, strict=True)))


def _even(columns: Sequence[Tensor]) -> list[Tensor]:
    """Widen what short windows have fewer of, with scores of no span."""
    if columns[0].ndim == 1:
        return list(columns)
    width = max(column.shape[1] for column in columns)
    fill = -math.inf if columns[0].is_floating_point() else 0
    return [F.pad(column, (0, width - column.shape[1]), value=fill) for column in columns]

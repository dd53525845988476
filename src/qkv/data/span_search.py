"""The most probable spans of a passage, from a model's logits for starts and ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.data.graphemes import widen
from qkv.data.windows import Window


class Spans(NamedTuple):
    """The best spans of some windows, best first; a score of -inf is no span.

    Args:
        scores: logit of the start plus logit of the end.
        starts: positions of their first tokens.
        ends: positions of their last tokens.
        log_total: logarithm of the sum of exp(score) over all spans of each window.
        null_score: score of "the answer is not here" for each window.
    """

    scores: Float[Tensor, "windows n"]
    starts: Int[Tensor, "windows n"]
    ends: Int[Tensor, "windows n"]
    log_total: Float[Tensor, " windows"]
    null_score: Float[Tensor, " windows"]


def best_spans(
    logits: Float[Tensor, "windows length 2"],
    passage: Bool[Tensor, "windows length"],
    null: Int[Tensor, " windows"] | None = None,
    *,
    max_answer: int,
    n: int,
) -> Spans:
    """Return the best spans of the passage with 1 to `max_answer` tokens.

    The score of a span is the sum of two logits (Devlin et al. 2019, section 4.2); the score of no
    answer is that of the span [CLS] (section 4.3), or of the token that stands for it.

    Args:
        logits: logits of starts and ends.
        passage: True for the tokens of the passage, where answers may be.
        null: position of the token that stands for no answer; default: 0.
        max_answer: maximum number of tokens of an answer.
        n: number of spans per window.
    """
    rows = torch.arange(len(logits), device=logits.device)
    null_score = logits[rows, 0 if null is None else null].sum(-1)
    start, end = logits.masked_fill(~passage[..., None], -math.inf).unbind(-1)  # (W, L)
    # For each start only the next max_answer ends matter: (W, L, A), not (W, L, L).
    later = F.pad(end, (0, max_answer - 1), value=-math.inf).unfold(1, max_answer, 1)
    scores = (start[..., None] + later).flatten(1)
    best, flat = scores.topk(min(n, scores.shape[1]))
    starts = flat // max_answer
    return Spans(best, starts, starts + flat % max_answer, scores.logsumexp(1), null_score)


def relative(spans: Spans) -> Spans:
    """Make scores relative to that of "the answer is not here" in each window, which becomes 0.

    Windows are then compared by their evidence for an answer, not by their unrelated logits.
    """
    null = spans.null_score
    return Spans(
        spans.scores - null[:, None],
        spans.starts,
        spans.ends,
        spans.log_total - null,
        null - null,
    )


@dataclass(frozen=True)
class Candidate:
    """A possible answer.

    Args:
        answer: the characters of the passage from `start` to `end`.
        start: index of the first character.
        end: index after the last character.
        confidence: probability of the span: exp(score), divided by its sum over all spans of all
            windows of the passage and "no answer".
    """

    answer: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class SpanCandidates:
    """The possible answers to a question.

    Args:
        candidates: the best spans, best first.
        no_answer_score: score of "no answer" minus that of the best span (Devlin et al. 2019,
            section 4.3; the score of "no answer" is the lowest of all windows).
        null_probability: probability of "no answer".
        n_windows: number of windows of the passage.
    """

    candidates: tuple[Candidate, ...]
    no_answer_score: float
    null_probability: float
    n_windows: int


def merge_windows(
    context: str, windows: Sequence[Window], spans: Spans, rows: Sequence[int], *, n: int
) -> SpanCandidates:
    """Choose among the spans of all windows of a passage.

    Args:
        context: the passage.
        windows: the windows of all passages.
        spans: the spans of all windows.
        rows: indices of the windows of this passage.
        n: number of candidates to keep.
    """
    scores: dict[tuple[int, int], float] = {}
    for row in rows:
        columns = (column[row].tolist() for column in (spans.scores, spans.starts, spans.ends))
        for score, first, last in zip(*columns, strict=True):
            if score == -math.inf:
                continue
            start, end = windows[row].characters(first, last)
            text = context[start:end]
            # A token may include the space before it.
            start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            start, end = widen(context, start, end)
            if start < end:  # the same span of an overlap counts once
                scores[start, end] = max(score, scores.get((start, end), -math.inf))
    own = list(rows)
    null_score = float(spans.null_score[own].min())
    total = float(F.pad(spans.log_total[own], (0, 1), value=null_score).logsumexp(0))
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:n]
    candidates = tuple(
        Candidate(context[start:end], start, end, math.exp(score - total))
        for (start, end), score in best
    )
    silence = null_score - best[0][1], math.exp(null_score - total)
    return SpanCandidates(candidates, *silence, n_windows=len(own))

"""The likeliest spans of a passage, from a model's logits for starts and ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.data.graphemes import widen
from qkv.data.windows import Window


class Spans(NamedTuple):
    """The best spans of some windows, best first; a score of -inf is no span.

    Args:
        scores: logit of the start plus that of the end.
        starts: places of their first tokens.
        ends: places of their last.
        log_total: of each window, the logarithm of the sum of exp(score) over all its spans.
        silence: of each window, the score of "the answer is not here".
    """

    scores: Float[Tensor, "windows n"]
    starts: Int[Tensor, "windows n"]
    ends: Int[Tensor, "windows n"]
    log_total: Float[Tensor, " windows"]
    silence: Float[Tensor, " windows"]


def best_spans(
    logits: Float[Tensor, "windows length 2"],
    passage: Bool[Tensor, "windows length"],
    *,
    max_answer: int,
    n: int,
) -> Spans:
    """Find the best spans within the passage that start before they end, and not too long before.

    The score of a span is the sum of two logits (Devlin et al. 2019, section 4.2); that of no
    answer is the span of [CLS] (section 4.3).

    Args:
        logits: of starts and ends.
        passage: True = a token of the passage, where alone an answer stands.
        max_answer: the most tokens of an answer.
        n: how many to find in each window.
    """
    silence = logits[:, 0].sum(-1)
    start, end = logits.masked_fill(~passage[..., None], -math.inf).unbind(-1)  # (W, L)
    # Of the end no more than the next max_answer places matter: (W, L, A), not (W, L, L).
    later = F.pad(end, (0, max_answer - 1), value=-math.inf).unfold(1, max_answer, 1)
    scores = (start[..., None] + later).flatten(1)
    best, places = scores.topk(min(n, scores.shape[1]))
    starts = places // max_answer
    return Spans(best, starts, starts + places % max_answer, scores.logsumexp(1), silence)


@dataclass(frozen=True)
class Candidate:
    """A possible answer.

    Args:
        answer: the characters of the passage from start to end.
        start: in characters.
        end: in characters, the last not included.
        confidence: exp(score) over its sum over all spans of all windows of the passage, and "no
            answer": a probability that the model gives to this span among all.
    """

    answer: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Found:
    """What the windows of one passage gave.

    Args:
        candidates: the best spans, best first.
        no_answer_score: score of "no answer" minus that of the best span (Devlin et al. 2019,
            section 4.3, where the score for "no answer" is the lowest of all windows).
        silence: probability of "no answer".
    """

    candidates: tuple[Candidate, ...]
    no_answer_score: float
    silence: float


def merge_windows(
    context: str, windows: Sequence[Window], spans: Spans, rows: Sequence[int], *, n: int
) -> Found:
    """Choose among the spans of all windows of a passage.

    Args:
        context: the passage.
        windows: of all passages.
        spans: of all windows.
        rows: which windows are of this passage.
        n: how many candidates to keep.
    """
    scores: dict[tuple[int, int], float] = {}
    for row in rows:
        columns = (column[row].tolist() for column in (spans.scores, spans.starts, spans.ends))
        for score, first, last in zip(*columns, strict=True):
            if score == -math.inf:
                continue
            start, end = windows[row].characters(first, last)
            text = context[start:end]
            # A token may count the space before it in.
            start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            start, end = widen(context, start, end)
            if start < end:  # the same span of an overlap counts once
                scores[start, end] = max(score, scores.get((start, end), -math.inf))
    held = list(rows)
    silence = float(spans.silence[held].min())
    total = float(F.pad(spans.log_total[held], (0, 1), value=silence).logsumexp(0))
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:n]
    candidates = tuple(
        Candidate(context[start:end], start, end, math.exp(score - total))
        for (start, end), score in best
    )
    return Found(candidates, silence - best[0][1], math.exp(silence - total))

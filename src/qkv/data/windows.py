r"""Windows: a question and a piece of its passage, for passages longer than a model's input.

A long passage is cut into overlapping windows, each of which begins with the question:

    [CLS] question [SEP] passage, tokens 0 to 9   [SEP]
    [CLS] question [SEP] passage, tokens 6 to 15  [SEP]     stride 6

The span of [CLS] is the answer of a window that does not contain it (Devlin et al. 2019, section
4.3). In a decoder, the first token sees nothing of the window and the last one all of it, so its
window is

    Question: question\n passage, tokens 0 to 9 <stop>     whose span of <stop> is "not here"
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batches import Batches, Batching, Movable, bucketed_batches, pad_sequences
from qkv.data.graphemes import widen
from qkv.data.questions import Question
from qkv.data.sentences import split_sentences
from qkv.data.tokenizers import Tokenizer
from qkv.data.tokenizers.vocabulary import Span
from qkv.errors import ConfigError, DataError, LengthError
from qkv.json_fields import quoted

ASKED = "Question: {}\n"  # what a decoder reads before the passage


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How passages are cut into windows, and answers are chosen; stored in config.json.

    Args:
        max_length: maximum number of tokens of a window, question and special tokens included.
        stride: number of passage tokens from the start of a window to that of the next.
        max_answer: maximum number of tokens of an answer.
        threshold: score for "no answer" above which there is none; None: always answer.
        sentences: whether each sentence is a window, or several if it is too long. The scores of
            its spans are then relative to that of "no answer" in the same window.
        causal: whether windows are laid out for a decoder: they end with the stop token, whose span
            means "no answer", since only the last token of a decoder sees the whole window.

    Raises:
        ConfigError: a number below 1.
    """

    max_length: int = 384
    stride: int = 128
    max_answer: int = 30
    threshold: float | None = None
    sentences: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_length", "stride", "max_answer"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1 token")


class Window(NamedTuple):
    """A question with a piece of its passage.

    Args:
        row: index of the question.
        ids: token ids, special tokens included.
        segments: 0 for the question, 1 for the passage, in families that distinguish them.
        first: index, among the ids, of the piece's first token.
        spans: characters [start, end) of the passage for each token of the piece; none splits what
            a reader sees as one character (an accent, a joined emoji), so no answer does.
        null: index of the token that stands for "the answer is not here".
    """

    row: int
    ids: list[int]
    segments: list[int]
    first: int
    spans: list[Span]
    null: int = 0

    def positions(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the indices of the first and the last token of characters [start, end).

        None if the window does not contain all of them.
        """
        if not self.spans or start < self.spans[0][0] or end > self.spans[-1][1]:
            return None
        inside = [i for i, (a, b) in enumerate(self.spans) if a < end and b > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None

    def characters(self, first: int, last: int) -> Span:
        """Return the characters [start, end) of the tokens from index `first` to `last`."""
        return self.spans[first - self.first][0], self.spans[last - self.first][1]


def make_windows(
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_length: int,
    stride: int,
    sentences: bool = False,
    causal: bool = False,
) -> list[Window]:
    """Cut passages into windows that overlap, as run_squad.py of Devlin et al. (2019) does.

    Args:
        tokenizer: the model's tokenizer.
        questions: one question per passage.
        contexts: the passages.
        max_length: maximum number of tokens of a window, question and special tokens included.
        stride: maximum number of passage tokens from the start of a window to that of the next.
        sentences: cut between all sentences, and windows only from longer ones.
        causal: lay windows out for a decoder.

    Raises:
        DataError: a question or a passage has no tokens, or their numbers differ.
        LengthError: a question leaves no room for its passage.
        ConfigError: a stride below 1.
    """
    if stride < 1:
        raise ConfigError(f"stride = {stride}; expected at least 1 token")
    if len(questions) != len(contexts):
        raise DataError(
            f"{len(questions)} questions and {len(contexts)} passages; expected one passage each"
        )
    encoded = {text: _encode(tokenizer, text) for text in dict.fromkeys(contexts)}
    ends_of = {
        text: _ends_of_sentences(text, spans) if sentences else [len(spans)]
        for text, (_, spans) in encoded.items()
    }
    windows = list[Window]()
    asked = [ASKED.format(one) if causal and one else one for one in questions]
    for row, question in enumerate(tokenizer.encode_batch(asked)):
        ids, spans = encoded[contexts[row]]
        _check_tokens(row, question=(question, questions[row]), passage=(ids, contexts[row]))
        room = _room(tokenizer, question, row, max_length - causal)
        ends = ends_of[contexts[row]]
        for part in _parts(ends, room, stride):
            inputs = tokenizer.add_special_tokens(question, ids[part])
            window = Window(row, inputs.ids, inputs.segments, inputs.sequence.index(1), spans[part])
            windows.append(_closed(window, tokenizer.stop) if causal else window)
    return windows


def _closed(window: Window, stop: int) -> Window:
    """Return a window that ends with the stop token, which stands for "the answer is not here"."""
    if window.ids[-1] != stop:
        segments = [*window.segments, window.segments[-1]]
        window = window._replace(ids=[*window.ids, stop], segments=segments)
    return window._replace(null=len(window.ids) - 1)


def _room(tokenizer: Tokenizer, question: Sequence[int], row: int, max_length: int) -> int:
    """Return the number of passage tokens that fit beside a question."""
    room = max_length - len(tokenizer.add_special_tokens(question, []).ids)
    if room < 1:
        raise LengthError(
            f"question {row + 1} has {len(question)} tokens, and with the special tokens "
            f"leaves none of max_length = {max_length} for its passage; expected a shorter one"
        )
    return room


def _check_tokens(row: int, **encoded: tuple[Sequence[int], str]) -> None:
    for what, (ids, text) in encoded.items():
        if not ids:
            raise DataError(f"{what} {row + 1} has no tokens: {quoted(text)} (is it empty?)")


def _encode(tokenizer: Tokenizer, context: str) -> tuple[list[int], list[Span]]:
    ids, spans = tokenizer.encode_with_offsets(context)
    return ids, [
        widen(context, start, end) if start < end else (start, end) for start, end in spans
    ]


def _ends_of_sentences(context: str, spans: Sequence[Span]) -> list[int]:
    """Return the index after the last token of each sentence.

    A token that includes the space before its word is one of the word's sentence.
    """
    last = [end for _, end in spans]
    ends = itertools.accumulate(len(text) for text in split_sentences(context))
    return sorted({bisect_right(last, end) for end in ends} - {0} | {len(spans)})


def _parts(ends: Sequence[int], room: int, stride: int) -> Iterable[slice]:
    """Yield windows of at most `room` tokens, none of which crosses an end."""
    for begin, end in itertools.pairwise([0, *ends]):
        for start in itertools.count(begin, min(stride, room)):
            yield slice(start, min(start + room, end))
            if start + room >= end:
                break


def training_windows(
    tokenizer: Tokenizer, questions: Sequence[Question], config: WindowConfig
) -> tuple[list[Window], list[tuple[int, int]]]:
    """Return windows to train on, and the indices of the first and last token of each answer.

    A window that does not contain the whole answer has the span of its token `null`. Questions with
    answers none of which is a span are left out: their passages do contain the answer.

    Raises:
        DataError: no question is left.
    """
    kept = [one for one in questions if one.span is not None or not one.answers]
    if not kept:
        raise DataError(
            f"none of {len(questions)} questions has an answer that is part of its passage; "
            "expected words of the passage (are the columns right?)"
        )
    windows = make_windows(
        tokenizer,
        [one.question for one in kept],
        [one.context for one in kept],
        max_length=config.max_length,
        stride=config.stride,
        sentences=config.sentences,
        causal=config.causal,
    )
    spans = []
    for window in windows:
        answer, span = kept[window.row].span, None
        if answer is not None and answer.start is not None:
            span = window.positions(answer.start, answer.start + len(answer.text))
        spans.append(span or (window.null, window.null))
    return windows, spans


@dataclass(frozen=True, kw_only=True)
class SpanBatch(Movable):
    """Windows, padded on the right, and the spans of their answers.

    Args:
        tokens: token ids, the model's input.
        token_mask: True = a real token.
        segments: segments of the tokens; None for models without segments.
        starts: index of each span's first token.
        ends: index of each span's last token.
    """

    tokens: Int64[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    segments: Int64[Tensor, "batch length"] | None
    starts: Int64[Tensor, " batch"]
    ends: Int64[Tensor, " batch"]

    @property
    def n_targets(self) -> int:
        """Number of windows."""
        return len(self.tokens)


def span_batches(
    windows: Sequence[Window],
    spans: Sequence[tuple[int, int]],
    *,
    pad: int,
    segments: bool,
    batching: Batching,
) -> Batches[SpanBatch]:
    """Batch windows of similar length for training.

    Args:
        windows: windows from `make_windows`.
        spans: indices of the first and last token of each answer; see `training_windows`.
        pad: id that fills short rows.
        segments: whether the model distinguishes question and passage.
        batching: see `bucketed_batches`, also for the errors.

    Raises:
        DataError: the numbers of windows and spans differ.
    """
    if len(spans) != len(windows):
        raise DataError(f"{len(windows)} windows and {len(spans)} spans; expected one span each")

    def make(rows: list[int], _: np.random.Generator) -> SpanBatch:
        tokens, token_mask = pad_sequences([windows[row].ids for row in rows], pad)
        starts, ends = torch.tensor([spans[row] for row in rows]).unbind(1)
        kinds = [windows[row].segments for row in rows]
        return SpanBatch(
            tokens=tokens,
            token_mask=token_mask,
            segments=pad_sequences(kinds, 0)[0] if segments else None,
            starts=starts,
            ends=ends,
        )

    return bucketed_batches([(len(window.ids),) for window in windows], make, batching)

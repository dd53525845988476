"""The loop shared by all decoding strategies: prefill, step, finish rows, compact the batch."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError, LengthError, ShapeError
from qkv.generation.answer import Answer
from qkv.generation.processors import Processor, process
from qkv.generation.state import Decodable, State

# One id for all rows, one per row, or several per row: `start` and a prefix of the answer.
Start = int | Sequence[int] | Sequence[Sequence[int]] | Int[Tensor, " batch"]
Stop = int | Sequence[int]
Ends = Callable[[list[int]], bool]  # whether an answer with these tokens has ended

# Compact the batch once a quarter of its rows has finished: it copies the caches of the others.
COMPACT_AT = 1 / 4
# A long prompt is processed in chunks, to store the logits of only one chunk at a time.
PREFILL_CHUNK = 256


class Stepper:
    """The rows of a batch during decoding, with the model's state.

        while stepper.unfinished:
            stepper.append(stepper.apply_processors(stepper.logits()).argmax(-1))

    Args:
        model: model in evaluation mode.
        source: source ids, one row per answer.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder, not part of the answer: an id for all rows, an id per
            row, or several ids per row (rows may differ in number), so that answers continue a
            prefix. For a causal model, it is the last token of the prompt, and the source holds the
            others; or it is the whole prompt, which processors then see, and the source is empty.
        stop: id or ids that end an answer; the first pads shorter answers. -1, which is not a
            token, ends none.
        max_length: maximum number of tokens of an answer, including `stop`.
        processors: applied to the logits in this order.
        ends: called with an answer's tokens after each step; True ends the answer.

    Raises:
        ConfigError: `max_length` is below 1, or there is no `stop`.
        LengthError: a row of `start` is empty.
    """

    def __init__(
        self,
        model: Decodable,
        source: Int[Tensor, "batch source"],
        *,
        token_mask: Bool[Tensor, "batch source"] | None = None,
        start: Start,
        stop: Stop,
        max_length: int,
        processors: Sequence[Processor] = (),
        ends: Ends | None = None,
    ):
        check_max_length(max_length)
        self._model, self._max_length = model, max_length
        self._processors, self._ends = processors, ends
        begun = read_start(start, source)
        self._stops = read_stop(stop, source)
        room = begun.new_full((len(source), max_length), int(self._stops[0]))
        self._tokens = torch.cat((begun, room), 1)
        self._begun = self._end = begun.shape[1]
        self._logprobs = torch.zeros(0)
        self._lengths = begun.new_zeros(len(source))
        self._ended = torch.zeros_like(self._lengths, dtype=torch.bool)
        self.rows = torch.arange(len(source), device=source.device)  # rows still in the batch
        self._finished = 0  # number of these that have ended
        self.state = model.start(source, token_mask)

    @property
    def length(self) -> int:
        """Number of tokens generated so far."""
        return self._end - self._begun

    @property
    def unfinished(self) -> bool:
        """True while a row is unfinished and below `max_length`."""
        return len(self.rows) > 0 and self.length < self._max_length

    @property
    def tokens(self) -> Int[Tensor, "rows t"]:
        """`start` and the generated tokens of each row, padded with -1 on the left."""
        return self._tokens[self.rows, : self._end]

    def logits(self) -> Float[Tensor, "rows V"]:
        """Process new tokens; return the logits of each row's next token."""
        new = self._tokens[self.rows, self.state.length : self._end]
        return read(self._model, new, self.state)

    def apply_processors(self, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
        """Apply the processors to unfinished rows; they may modify the logits."""
        if not self._processors:
            return logits
        if not self._finished:
            return process(self._processors, self.tokens, logits)
        unfinished = ~self._ended[self.rows]
        logits[unfinished] = process(self._processors, self.tokens[unfinished], logits[unfinished])
        return logits

    def append(
        self, tokens: Int[Tensor, " rows"], logprobs: Float[Tensor, " rows"] | None = None
    ) -> None:
        """Append a token to each unfinished row; finished rows may leave the batch."""
        ended = self._ended[self.rows]
        tokens = torch.where(ended, self._stops[0], tokens) if self._finished else tokens
        self._tokens[self.rows, self._end] = tokens
        if logprobs is not None:
            if self.length == 0:
                self._logprobs = logprobs.new_zeros(len(self._tokens), self._max_length)
            self._logprobs[self.rows, self.length] = logprobs
        self._end += 1
        self._lengths[self.rows] += ~ended
        ended |= torch.isin(tokens, self._stops)
        if self._ends is not None:
            for i in (~ended).nonzero().flatten().tolist():
                ended[i] = self._ends(self._tokens[self.rows[i], self._begun : self._end].tolist())
        self._ended[self.rows] = ended
        self._finished = int(ended.sum())
        if self._finished >= COMPACT_AT * len(ended) > 0:
            self.state.reorder((~ended).nonzero().squeeze(1))
            self.rows, self._finished = self.rows[~ended], 0

    def padded(self) -> Int[Tensor, "batch length"]:
        """Return the answers of all rows in the source's order, padded with `stop`."""
        return self._tokens[:, self._begun : self._end]

    def answers(self) -> list[Answer]:
        """Return all answers in the source's order; requires log-probabilities in `append`."""
        columns = zip(
            self._lengths.tolist(),
            self.padded().tolist(),
            self._logprobs.tolist(),
            self._ended.tolist(),
            strict=True,
        )
        return [
            Answer(
                tokens=tokens[:length],
                logprobs=logprobs[:length],
                score=sum(logprobs[:length]),
                ended=ended,
            )
            for length, tokens, logprobs, ended in columns
        ]


def read(model: Decodable, tokens: Int[Tensor, "rows n"], state: State) -> Float[Tensor, "rows V"]:
    """Process these tokens (-1: padding); return the logits of the token after the last."""
    logits = torch.empty(0)
    for piece in tokens.split(PREFILL_CHUNK, dim=1):
        real = piece >= 0
        if real.all():
            logits = model.step(piece, state)
        else:
            logits = model.step(piece.clamp(min=0), state, real)
    return logits[:, -1]


def read_start(start: Start, source: Int[Tensor, "batch _"]) -> Int[Tensor, "batch n"]:
    """Convert `start` to a tensor, padding rows with -1 on the left.

    Raises:
        ShapeError: if the number of rows differs from the source's.
        LengthError: if a row is empty.
    """
    batch = len(source)
    if isinstance(start, int):
        return source.new_full((batch, 1), start)
    starts = start.tolist() if isinstance(start, Tensor) else start
    rows = [[ids] if isinstance(ids, int) else list(ids) for ids in starts]
    if len(rows) != batch:
        raise ShapeError(
            f"start has {len(rows)} rows, but the source has {batch}; expected an id for "
            "all rows, or an id or a list of ids per row"
        )
    if not all(rows):
        raise LengthError(
            f"row {rows.index([])} of start is empty: decoding must begin with a token, such as "
            "the tokenizer's start or the prompt's last"
        )
    width = max(map(len, rows), default=1)
    return source.new_tensor([[-1] * (width - len(row)) + row for row in rows]).reshape(-1, width)


def read_stop(stop: Stop, source: Int[Tensor, "batch _"]) -> Int[Tensor, " stops"]:
    """Convert the ids that end an answer to a tensor on the source's device.

    Raises:
        ConfigError: if there are none.
    """
    stops = [stop] if isinstance(stop, int) else list(stop)
    if not stops:
        raise ConfigError("stop is empty, expected one or more ids; -1 ends no answer")
    return source.new_tensor(stops)


def check_max_length(max_length: int) -> None:
    """Check that answers may have a token.

    Raises:
        ConfigError: if `max_length` is below 1.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}, expected at least 1 (`stop` counts)")

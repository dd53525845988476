"""The stepping core of every way of decoding: rows read, write, end, and leave the batch."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError, LengthError, ShapeError
from qkv.generation.answer import Answer
from qkv.generation.processors import Processor, process
from qkv.generation.state import Decodable, State

# Of all rows, of each row, or several of each row: `start` and a prefix that answers must have.
Start = int | Sequence[int] | Sequence[Sequence[int]] | Int[Tensor, " batch"]
Stop = int | Sequence[int]
Ends = Callable[[list[int]], bool]  # is an answer with these tokens at its end?

# Compact the batch once a quarter of its rows has finished: it copies the caches of the others.
COMPACT_AT = 1 / 4
# A long beginning is read in pieces: only the logits of one piece are held at a time.
PREFILL_CHUNK = 256


class Stepper:
    """The rows of a batch that are being decoded, and the model's memory of them.

        while stepper.unfinished:
            stepper.append(stepper.apply_processors(stepper.logits()).argmax(-1))

    Args:
        model: in evaluation mode.
        source: what is read, one row an answer.
        token_mask: True = a real token of the source; by default all.
        start: what the decoder reads first, and no part of the answer: an id for all rows, an id a
            row, or several ids a row (of which rows may have different numbers), so that answers
            continue a prefix. Of a causal model's prompt it is the last token, and the source is
            what stands before; or it is the whole prompt, which processors then count as said, and
            the source has no token.
        stop: id or ids that end an answer; the first of them fills the shorter answers. -1, which
            is no token, ends none.
        max_length: most tokens of an answer, `stop` included.
        processors: applied to the logits in this order.
        ends: told an answer's tokens after each step, says whether it is at its end.

    Raises:
        ConfigError: `max_length` leaves no place for a token, or there is no `stop`.
        LengthError: a row begins with nothing.
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
        self.rows = torch.arange(len(source), device=source.device)  # those still in the batch
        self.state = model.start(source, token_mask)

    @property
    def length(self) -> int:
        """Tokens written so far."""
        return self._end - self._begun

    @property
    def unfinished(self) -> bool:
        """Whether a row may still be written to."""
        return len(self.rows) > 0 and self.length < self._max_length

    @property
    def tokens(self) -> Int[Tensor, "rows t"]:
        """What the rows have read and written; -1 is padding to the left of it."""
        return self._tokens[self.rows, : self._end]

    def logits(self) -> Float[Tensor, "rows V"]:
        """Step what was not stepped yet: the logits of each row's next token."""
        new = self._tokens[self.rows, self.state.length : self._end]
        return read(self._model, new, self.state)

    def apply_processors(self, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
        """Apply the processors to the rows that have not ended."""
        if not self._processors:
            return logits
        unfinished = ~self._ended[self.rows]
        logits = logits.clone()
        logits[unfinished] = process(self._processors, self.tokens[unfinished], logits[unfinished])
        return logits

    def append(
        self, tokens: Int[Tensor, " rows"], logprobs: Float[Tensor, " rows"] | None = None
    ) -> None:
        """Write one token to each row that has not ended; rows that have may leave the batch."""
        unfinished = ~self._ended[self.rows]
        rows, tokens = self.rows[unfinished], tokens[unfinished]
        self._tokens[rows, self._end] = tokens
        if logprobs is not None:
            if self.length == 0:
                self._logprobs = logprobs.new_zeros(len(self._tokens), self._max_length)
            self._logprobs[rows, self.length] = logprobs[unfinished]
        self._end += 1
        self._lengths[rows] += 1
        self._ended[rows] = torch.isin(tokens, self._stops)
        if self._ends is not None:
            for row in rows.tolist():
                answer = self._tokens[row, self._begun : self._end].tolist()
                self._ended[row] |= self._ends(answer)
        unfinished = ~self._ended[self.rows]
        if (~unfinished).sum() >= COMPACT_AT * len(unfinished):
            self.state.reorder(unfinished.nonzero().squeeze(1))
            self.rows = self.rows[unfinished]

    def padded(self) -> Int[Tensor, "batch length"]:
        """The answers of all rows in the source's order, the shorter ones filled with `stop`."""
        return self._tokens[:, self._begun : self._end]

    def answers(self) -> list[Answer]:
        """The answers of all rows in the source's order; `append` was given log-probabilities."""
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
    """Step these tokens (-1: padding); return the logits of what follows the last of them."""
    logits = torch.empty(0)
    for piece in tokens.split(PREFILL_CHUNK, dim=1):
        real = piece >= 0
        if real.all():
            logits = model.step(piece, state)
        else:
            logits = model.step(piece.clamp(min=0), state, real)
    return logits[:, -1]


def read_start(start: Start, source: Int[Tensor, "batch _"]) -> Int[Tensor, "batch n"]:
    """Write what each row begins with as one table, -1 to the left of rows that have less.

    Raises:
        ShapeError: if there is not one beginning a row.
        LengthError: if one is empty.
    """
    batch = len(source)
    if isinstance(start, int):
        return source.new_full((batch, 1), start)
    given = start.tolist() if isinstance(start, Tensor) else start
    rows = [[ids] if isinstance(ids, int) else list(ids) for ids in given]
    if len(rows) != batch:
        raise ShapeError(
            f"start has {len(rows)} beginnings for {batch} rows of the source; expected an id for "
            "all, or an id or a list of ids a row"
        )
    if not all(rows):
        raise LengthError(
            f"row {rows.index([])} of start is empty: decoding must begin with a token, such as "
            "the tokenizer's start or the prompt's last"
        )
    width = max(map(len, rows), default=1)
    return source.new_tensor([[-1] * (width - len(row)) + row for row in rows]).reshape(-1, width)


def read_stop(stop: Stop, source: Int[Tensor, "batch _"]) -> Int[Tensor, " stops"]:
    """Write the ids that end an answer as a tensor beside the source.

    Raises:
        ConfigError: if there is none.
    """
    stops = [stop] if isinstance(stop, int) else list(stop)
    if not stops:
        raise ConfigError("stop is empty, expected an id or several; -1 ends no answer")
    return source.new_tensor(stops)


def check_max_length(max_length: int) -> None:
    """Refuse to write nothing.

    Raises:
        ConfigError: if there is no place for a token.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}, expected at least 1: `stop` takes a place")

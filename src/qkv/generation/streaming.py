"""Streaming: tokens as they are drawn, and their text in pieces that are never revised."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError, ShapeError
from qkv.generation.answer import Token
from qkv.generation.processors import Processor
from qkv.generation.sampling import draw_next, uniform_noise
from qkv.generation.state import Decodable
from qkv.generation.stepping import Ends, Start, Stepper, Stop

Decode = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"  # the decoding of incomplete characters


def stream(
    model: Decodable,
    source: Int[Tensor, "1 source"],
    *,
    token_mask: Bool[Tensor, "1 source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    seed: int,
    processors: Sequence[Processor] = (),
) -> Iterator[Token]:
    """Yield the tokens of `sample` for one source, each as soon as it is drawn.

    See `sample` for arguments and errors, which are raised at once, not with the first token.
    """
    if len(source) != 1:
        raise ShapeError(f"the source has {len(source)} rows; expected a single row to stream")
    uniforms = uniform_noise([seed], source, max_length)
    with torch.inference_mode():
        stepper = Stepper(
            model,
            source,
            token_mask=token_mask,
            start=start,
            stop=stop,
            max_length=max_length,
            processors=processors,
        )
    return _stream(stepper, uniforms)


def _stream(stepper: Stepper, uniforms: Float[Tensor, "1 length"]) -> Iterator[Token]:
    while stepper.unfinished:
        with torch.inference_mode():
            tokens, logprobs = draw_next(stepper, uniforms)
        yield Token(int(tokens), float(logprobs))  # outside of inference mode, like the caller


def text_pieces(
    ids: Iterable[int], decode: Decode, *, stop_strings: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the text of the ids piece by piece; concatenated, the pieces equal `decode` of all ids.

    Text is held back while it ends in an incomplete character or in a possible beginning of a stop
    string. All ids so far are decoded each time, since a text may depend on its beginning. If the
    last character stays incomplete, as `max_length` may cause, earlier pieces remain valid.

    Args:
        ids: ids from `stream`, `speculate`, or any other iterable.
        decode: `decode` of the tokenizer.
        stop_strings: the text ends before the first of them, and no more ids are consumed.

    Raises:
        ConfigError: if a stop string is empty.
    """
    pieces = Pieces(decode, stop_strings)
    for i in ids:
        if piece := pieces.add(i):
            yield piece
        if pieces.stopped:
            break
    if piece := pieces.rest():
        yield piece


class Pieces:
    """The text of ids that come one by one; see `text_pieces`.

    Args:
        decode: `decode` of the tokenizer.
        stop_strings: the text ends before the first of them.
    """

    def __init__(self, decode: Decode, stop_strings: Sequence[str] = ()):
        check_stop_strings(stop_strings)
        self._decode, self._stop_strings = decode, stop_strings
        self._read: list[int] = []
        self._emitted = self._text = ""
        self.stopped = False  # at a stop string

    def add(self, i: int) -> str:
        """Add an id; return the text that is settled by it, which may be empty."""
        self._read.append(i)
        text = self._decode(self._read)
        self._text = cut_text(text, self._stop_strings)
        self.stopped = len(self._text) < len(text)
        if self.stopped:
            return ""
        return self._next(_settled(text.rstrip(REPLACEMENT), self._stop_strings))

    def rest(self) -> str:
        """Return the text that was held back, once there are no more ids."""
        return self._next(self._text)

    def _next(self, whole: str) -> str:
        if not whole.startswith(self._emitted):
            return ""
        piece, self._emitted = whole[len(self._emitted) :], whole
        return piece


def _settled(text: str, stop_strings: Sequence[str]) -> str:
    """Remove a suffix that may be the beginning of a stop string."""
    held = (n for s in stop_strings for n in range(1, len(s)) if text.endswith(s[:n]))
    return text[: len(text) - max(held, default=0)]


def cut_text(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text before the first stop string; all of it if there is none."""
    return text[: min((at for s in stop_strings if (at := text.find(s)) >= 0), default=len(text))]


def ends_at(decode: Decode, stop_strings: Sequence[str]) -> Ends:
    """Return an `ends` for `sample` that ends an answer once its text contains a stop string.

    The text before the string is `cut_text(decode(answer.tokens), stop_strings)`.

    Raises:
        ConfigError: if a stop string is empty.
    """
    check_stop_strings(stop_strings)
    return lambda tokens: any(s in decode(tokens) for s in stop_strings)


def check_stop_strings(stop_strings: Sequence[str]) -> None:
    """Check that no stop string is empty, as every text contains it.

    Raises:
        ConfigError: if a stop string is empty.
    """
    if "" in stop_strings:
        raise ConfigError("a stop string is empty: every answer would end before it begins")

"""Streaming: tokens as they are drawn, and their text in pieces that are never taken back."""

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

REPLACEMENT = "\ufffd"  # what bytes that are no whole character are decoded to


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

    Args and errors are those of `sample`; whoever reads no further ends it. The errors of the
    arguments come at once, and not with the first token.
    """
    if len(source) != 1:
        raise ShapeError(f"the source has {len(source)} rows; one answer is streamed at a time")
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
        yield Token(int(tokens), float(logprobs))  # outside of inference mode, as the reader is


def text_pieces(
    ids: Iterable[int], decode: Decode, *, stop_strings: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the text of the ids piece by piece; the pieces together are `decode` of all ids.

    A piece waits while it ends in bytes that are no whole character yet, or in what may become a
    stop string. All ids so far are decoded each time, since a text may depend on its beginning.
    Where bytes stay broken until the end, as `max_length` may leave them, what was said stays.

    Args:
        ids: of `stream`, `speculate`, or any other source.
        decode: the tokenizer's.
        stop_strings: the text ends before the first of them, and no more ids are asked for.

    Raises:
        ConfigError: if a stop string is empty.
    """
    check_stop_strings(stop_strings)
    read: list[int] = []
    said = text = ""
    for i in ids:
        read.append(i)
        text = decode(read)
        cut = cut_text(text, stop_strings)
        if len(cut) < len(text):
            text = cut
            break
        whole = _settled(text.rstrip(REPLACEMENT), stop_strings)
        if whole.startswith(said) and whole != said:
            yield whole[len(said) :]
            said = whole
    if text.startswith(said) and text != said:
        yield text[len(said) :]


def _settled(text: str, stop_strings: Sequence[str]) -> str:
    """Leave an end out that a stop string may begin with."""
    held = (n for s in stop_strings for n in range(1, len(s)) if text.endswith(s[:n]))
    return text[: len(text) - max(held, default=0)]


def cut_text(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first of the stop strings; all of it where there is none."""
    return text[: min((at for s in stop_strings if (at := text.find(s)) >= 0), default=len(text))]


def ends_at(decode: Decode, stop_strings: Sequence[str]) -> Ends:
    """Make the `ends` of `sample` that ends an answer when its text has one of the strings.

    The text before it is `cut_text(decode(answer.tokens), stop_strings)`.

    Raises:
        ConfigError: if a string is empty.
    """
    check_stop_strings(stop_strings)
    return lambda tokens: any(s in decode(tokens) for s in stop_strings)


def check_stop_strings(stop_strings: Sequence[str]) -> None:
    """Refuse what every text has.

    Raises:
        ConfigError: if a stop string is empty.
    """
    if "" in stop_strings:
        raise ConfigError("a stop string is empty: every answer would end before it begins")

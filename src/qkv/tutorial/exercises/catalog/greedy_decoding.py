"""Exercise 7.3: greedy decoding with a cache."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Answer, Draw, Exercise, Mistake, normal

TASK = """
Decode greedily with a model that caches what it has read. model.step(tokens, position) takes
the newest token of each row, (B,), and the position of these tokens, an int (the start
token's is 0), and returns the logits (B, V) of the next token; it remembers all tokens of
earlier calls, so each token is passed once. Begin with the start token in all n_rows rows.
Take the most probable token of each row until all rows have written `stop`, or max_length
tokens. After its stop token a row is filled with `pad`, and the model reads `pad` there, too.

n_rows, start, stop, pad, max_length: ints

Return the tokens (B, T), without the start token, with the stop tokens, where T is the length
of the longest row.
"""


class Model:
    """A model with a cache: all tokens that it has read, and their positions, decide."""

    def __init__(self, seed: int, n_tokens: int, stop: int, eager: float):
        draw = normal(seed)
        self.table = draw(n_tokens, n_tokens) * 2
        self.places, self.rows = draw(23, n_tokens), draw(7, n_tokens)
        self.stop, self.eager, self.read = stop, eager, 0
        self.state: Tensor | None = None

    def step(self, tokens: Tensor, position: int) -> Tensor:
        """Read a token a row and return the logits of the next."""
        new = self.table[tokens] + self.places[int(position) % 23]
        self.state = new if self.state is None else 0.4 * self.state + new
        self.read += 1
        logits = self.state + self.rows[: len(tokens)]
        logits[:, self.stop] += self.eager * (self.read - 4)
        return logits


def greedy(model: Any, n_rows: int, start: int, stop: int, pad: int, max_length: int) -> Tensor:
    """Return the tokens."""
    tokens = torch.full((n_rows,), start)
    ended = torch.zeros(n_rows, dtype=torch.bool)
    written: list[Tensor] = []
    while len(written) < max_length and not ended.all():
        logits = model.step(tokens, len(written))
        tokens = logits.argmax(-1).masked_fill(ended, pad)
        ended = ended | (tokens == stop)
        written.append(tokens)
    return torch.stack(written, 1)


def run(answer: Answer, inputs: tuple[Any, ...]) -> Any:
    """Let the answer decode with a fresh model."""
    settings, *others = inputs
    return answer(Model(*settings), *others)


def draws() -> list[Draw]:
    """Rows that end at different steps, and rows that never end."""

    def inputs(seed: int, n_rows: int, eager: float, max_length: int) -> tuple[Any, ...]:
        return (seed, 11, 2, eager), n_rows, 1, 2, 0, max_length

    return [
        Draw("a single row", inputs(731, 1, 1.0, 19)),
        Draw("rows that end early", inputs(732, 5, 0.6, 19)),
        Draw("rows that never end", inputs(733, 3, -9.0, 13)),
        Draw("more rows that end early", inputs(734, 7, 0.5, 19)),
        Draw("some rows that end and some that do not", inputs(735, 7, 0.4, 7)),
    ]


def wrong_greedy(
    model: Any,
    n_rows: int,
    start: int,
    stop: int,
    pad: int,
    max_length: int,
    *,
    position: str = "step",
    feed: str = "newest",
    after: str = "pad",
    end: str = "all",
    shown: str = "with stop",
    limit: int = 0,
    best: str = "largest",
) -> Tensor:
    """Decode with one thing done in another way."""
    tokens = torch.full((n_rows,), start)
    ended, written = torch.zeros(n_rows, dtype=torch.bool), []
    extra = 0
    if feed == "start twice":
        model.step(tokens, 0)
        extra = 1
    while len(written) < max_length + limit:
        step = len(written)
        place = {"step": step + extra, "0": 0, "from 1": step + 1, "1 after 0": min(step, 1)}
        fed = torch.full((n_rows,), start) if feed == "start" else tokens
        logits = model.step(fed, place[position])
        tokens = logits.argmin(-1) if best == "smallest" else logits.argmax(-1)
        if best == "first row":
            tokens = tokens[:1].expand(n_rows).clone()
        if after == "pad":
            tokens = tokens.masked_fill(ended, pad)
        elif after == "stop":
            tokens = tokens.masked_fill(ended, stop)
        elif after == "one pad":
            tokens = tokens.masked_fill(ended, pad)
            ended = torch.zeros_like(ended)
        ended = ended | (tokens == stop)
        written.append(tokens)
        if (end == "all" and ended.all()) or (end == "any" and ended.any()):
            break
    answer = torch.stack(written, 1)
    if shown == "with start":
        answer = torch.cat((torch.full((n_rows, 1), start), answer), 1)
    elif shown == "stop as pad":
        answer = answer.masked_fill(answer == stop, pad)
    elif shown == "stop cut":
        answer = answer.masked_fill(answer == stop, pad)
        longest = int((answer != pad).sum(1).max())
        answer = answer[:, :longest]
    elif shown == "turned":
        answer = answer.T
    return answer


MISTAKES = (
    Mistake(
        "the position is always 0",
        partial(wrong_greedy, position="0"),
        "Your first token is right; later ones are read as if each were the first.",
        "Each step has the next position.",
    ),
    Mistake(
        "the positions begin at 1",
        partial(wrong_greedy, position="from 1"),
        "Your start token is read at position 1.",
        "The start token has position 0.",
    ),
    Mistake(
        "the position stays at 1",
        partial(wrong_greedy, position="1 after 0"),
        "Your first two tokens are right; later ones are read at position 1.",
        "Each step has the next position.",
    ),
    Mistake(
        "the start token is read twice",
        partial(wrong_greedy, feed="start twice"),
        "Your cache has the start token at positions 0 and 1.",
        "Each token is passed once; the first call already returns logits.",
    ),
    Mistake(
        "the model always reads the start token",
        partial(wrong_greedy, feed="start"),
        "Your model never learns what it has written.",
        "Pass the newest token of each row.",
    ),
    Mistake(
        "ended rows go on",
        partial(wrong_greedy, after="go on"),
        "Your rows have words after their stop token.",
        "A row that has ended is filled with pad.",
    ),
    Mistake(
        "ended rows go on, up to max_length",
        partial(wrong_greedy, after="go on", end="never"),
        "Your rows have words after their stop token, and all have max_length tokens.",
        "A row that has ended is filled with pad; when all have ended, the loop ends.",
    ),
    Mistake(
        "ended rows are filled with stop",
        partial(wrong_greedy, after="stop"),
        "Your rows have several stop tokens.",
        "A row that has ended is filled with pad.",
    ),
    Mistake(
        "the end of a row is forgotten",
        partial(wrong_greedy, after="one pad"),
        "Your rows go on after one pad: only the newest token is looked at.",
        "A row that has ended stays ended: combine the old and the new by or.",
    ),
    Mistake(
        "decoding ends with the first row",
        partial(wrong_greedy, end="any"),
        "Your rows are cut where the first of them ends.",
        "Compare all with any.",
    ),
    Mistake(
        "decoding never ends early",
        partial(wrong_greedy, end="never"),
        "Your last columns are nothing but pad.",
        "When all rows have ended, nothing is left to do.",
    ),
    Mistake(
        "the start token is returned",
        partial(wrong_greedy, shown="with start"),
        "Your rows begin with the start token.",
        "Return what was written.",
    ),
    Mistake(
        "the stop tokens are replaced by pad",
        partial(wrong_greedy, shown="stop as pad"),
        "Your rows have no stop token.",
        "The stop token is part of the answer; pad comes after it.",
    ),
    Mistake(
        "the stop tokens are cut off",
        partial(wrong_greedy, shown="stop cut"),
        "Your rows have no stop token, and the longest is one too short.",
        "The stop token is part of the answer.",
    ),
    Mistake(
        "the result is turned",
        partial(wrong_greedy, shown="turned"),
        "Your result has a row for each step.",
        "A row for each text: stack along the second axis.",
    ),
    Mistake(
        "there is one token too few",
        partial(wrong_greedy, limit=-1),
        "Your longest rows have max_length - 1 tokens.",
        "max_length tokens may be written.",
    ),
    Mistake(
        "there is one token too many",
        partial(wrong_greedy, limit=1),
        "Your longest rows have max_length + 1 tokens.",
        "The start token was not written.",
    ),
    Mistake(
        "the least probable token is taken",
        partial(wrong_greedy, best="smallest"),
        "Your tokens have the smallest logits.",
        "Compare argmax with argmin.",
    ),
    Mistake(
        "all rows get the first row's token",
        partial(wrong_greedy, best="first row"),
        "Your first row is right and all rows are equal.",
        "Each row has its own maximum, over the last axis.",
    ),
)


EXERCISE = Exercise(
    number="7.3",
    title="Greedy decoding with a cache",
    task=TASK.strip(),
    solve=greedy,
    draws=draws,
    mistakes=MISTAKES,
    run=run,
    hint="Keep a boolean vector of the rows that have ended; the step's number is the position.",
    remark=(
        "`qkv.generation.greedy.greedy` does the same for every model that has `start` and `step`."
    ),
)

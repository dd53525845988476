"""Exercise 4.1: sinusoidal positions."""

from functools import partial

import torch
from torch import Tensor

from qkv.blocks.positions import sinusoids as library_sinusoids
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake

TASK = """
The encoding of position p in a model of even width D has in column 2i the number
sin(p / 10000^(2i / D)), and in column 2i + 1 the cosine of the same angle, as in the paper
(Vaswani et al. 2017, section 3.5). Positions are what they say: 0 is the first.

positions: (L,), whole numbers up to 100,000   d_model: D, an even int

Return the encodings (L, D), in float64.
"""


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Return the encodings."""
    even = torch.arange(0, d_model, 2, dtype=torch.float64)  # 2i
    angles = positions[:, None] / 10_000 ** (even / d_model)  # (L, D / 2)
    encodings = torch.empty(len(positions), d_model, dtype=torch.float64)
    encodings[:, 0::2], encodings[:, 1::2] = angles.sin(), angles.cos()
    return encodings


def reference(positions: Tensor, d_model: int) -> Tensor:
    """Compute the encodings with the library."""
    return library_sinusoids(positions, d_model, dtype=torch.float64)


def draws() -> list[Draw]:
    """Small and large positions."""
    return [
        Draw("positions 0 to 6", (torch.arange(7), 10)),
        Draw("positions 0 to 12 in a model of width 2", (torch.arange(13), 2)),
        Draw("positions that do not begin at 0", (torch.arange(5, 16), 6)),
        Draw("positions near 100,000", (torch.tensor([99_989, 99_991, 100_000]), 14)),
    ]


def wrong_sinusoids(
    positions: Tensor,
    d_model: int,
    *,
    exponent: str = "2i / D",
    layout: str = "sine, cosine",
    first: int = 0,
    kind: torch.dtype = torch.float64,
    base: float = 10_000.0,
    place: str = "as passed",
) -> Tensor:
    """Compute the encodings with one step done in another way."""
    if place == "counted":
        positions = torch.arange(len(positions))
    p = (positions + first).to(kind)[:, None]
    columns = torch.arange(d_model, dtype=kind)
    pairs = torch.arange(d_model // 2, dtype=kind)
    angles = {
        "2i / D": lambda: p / base ** (2 * pairs / d_model),
        "i / D": lambda: p / base ** (pairs / d_model),
        "4i / D": lambda: p / base ** (4 * pairs / d_model),
        "2i / D, multiplied": lambda: p * base ** (2 * pairs / d_model),
        "divisor D / 2 - 1": lambda: p / base ** (pairs / max(d_model / 2 - 1, 1)),
        "e": lambda: p * torch.exp(-2 * pairs / d_model),
        "(2i + 1) / D": lambda: p / base ** ((2 * pairs + 1) / d_model),
        "from 1": lambda: p / base ** (2 * (pairs + 1) / d_model),
        "each column": lambda: p / base ** (columns / d_model),
        "each column, doubled": lambda: p / base ** (2 * columns / d_model),
    }[exponent]()
    if exponent.startswith("each"):
        return torch.where(columns % 2 == 0, angles.sin(), angles.cos())
    sine, cosine = angles.sin(), angles.cos()
    return {
        "sine, cosine": lambda: torch.stack((sine, cosine), -1).flatten(1),
        "cosine, sine": lambda: torch.stack((cosine, sine), -1).flatten(1),
        "sine, sine": lambda: torch.stack((sine, sine), -1).flatten(1),
        "halves": lambda: torch.cat((sine, cosine), 1),
        "rows": lambda: torch.where(
            positions[:, None] % 2 == 0, sine.repeat(1, 2), cosine.repeat(1, 2)
        ),
    }[layout]()


MISTAKES = (
    Mistake(
        "the exponent is i / D",
        partial(wrong_sinusoids, exponent="i / D"),
        "Your last angles turn too fast: they reach only half of the exponents.",
        "i counts pairs of columns; the exponent is 2i / D.",
    ),
    Mistake(
        "the exponent is 4i / D",
        partial(wrong_sinusoids, exponent="4i / D"),
        "Your last angles turn too slowly: the exponents go to 2 instead of 1.",
        "If you count 0, 2, 4, ..., the 2 of 2i is already there.",
    ),
    Mistake(
        "each column has its own angle",
        partial(wrong_sinusoids, exponent="each column"),
        "Your sines are right, but each cosine has a smaller angle than the sine beside it.",
        "Columns 2i and 2i + 1 share an angle.",
    ),
    Mistake(
        "each column has its own angle, and the exponent is doubled",
        partial(wrong_sinusoids, exponent="each column, doubled"),
        "Each of your columns has its own angle, with exponents up to 2.",
        "i counts pairs of columns, not columns.",
    ),
    Mistake(
        "the exponent is that of the odd column",
        partial(wrong_sinusoids, exponent="(2i + 1) / D"),
        "Your first angle is not the position itself.",
        "For i = 0 the divisor is 10000^0 = 1.",
    ),
    Mistake(
        "i counts from 1",
        partial(wrong_sinusoids, exponent="from 1"),
        "Your first angle is not the position itself.",
        "For i = 0 the divisor is 10000^0 = 1.",
    ),
    Mistake(
        "the angle is multiplied instead of divided",
        partial(wrong_sinusoids, exponent="2i / D, multiplied"),
        "Your last columns change wildly from one position to the next.",
        "Later columns turn more slowly.",
    ),
    Mistake(
        "the exponents are divided by D / 2 - 1",
        partial(wrong_sinusoids, exponent="divisor D / 2 - 1"),
        "Your last angle is p / 10000; in the paper it is a little larger.",
        "This is the formula of tensor2tensor and Marian, not that of the paper.",
    ),
    Mistake(
        "the base is e",
        partial(wrong_sinusoids, exponent="e"),
        "All your columns turn at nearly the same rate: the logarithm of 10000 is missing.",
        "10000^x is exp(x * log(10000)).",
    ),
    Mistake(
        "the base is 1000",
        partial(wrong_sinusoids, base=1000.0),
        "Your last angles turn too fast.",
        "Count the zeros of the base.",
    ),
    Mistake(
        "all sines come before all cosines",
        partial(wrong_sinusoids, layout="halves"),
        "Your numbers are right but stand in other columns: sines in the first half.",
        "In the paper they alternate.",
    ),
    Mistake(
        "sine and cosine are exchanged",
        partial(wrong_sinusoids, layout="cosine, sine"),
        "Your position 0 is 1, 0, 1, 0, ...; it should be 0, 1, 0, 1, ...",
        "The even columns are sines.",
    ),
    Mistake(
        "there is no cosine",
        partial(wrong_sinusoids, layout="sine, sine"),
        "Each of your numbers stands there twice.",
        "The odd columns are cosines.",
    ),
    Mistake(
        "even and odd positions instead of columns",
        partial(wrong_sinusoids, layout="rows"),
        "Your even rows are sines and your odd rows cosines.",
        "Even and odd are about the column.",
    ),
    Mistake(
        "positions count from 1",
        partial(wrong_sinusoids, first=1),
        "Each of your rows is that of the next position.",
        "The positions are passed as they are: 0 is the first.",
    ),
    Mistake(
        "the positions are not used",
        partial(wrong_sinusoids, place="counted"),
        "Your rows are those of positions 0, 1, 2, ..., whatever is passed.",
        "The argument says which positions.",
    ),
    # The errors of float32 depend on the order of operations: this mistake is known by its size.
    Mistake(
        "the angles are computed in float32",
        partial(wrong_sinusoids, kind=torch.float32),
        "Your numbers are right for small positions, and wrong in the third digit near 100,000.",
        "Compute the angles in float64 from the beginning.",
        close=0.01,
    ),
)


EXERCISE = Exercise(
    number="4.1",
    title="Sinusoidal positions",
    task=TASK.strip(),
    solve=sinusoids,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="There are D / 2 angles for each position; each is used twice, in neighboring columns.",
    remark=(
        "An angle of 100,000 in float32 is wrong in the third digit of its sine: 24 bits are used "
        "up by the whole turns."
    ),
)

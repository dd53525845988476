"""Exercise 4.2: rotary positions with cached keys."""

from functools import partial

import torch
from torch import Tensor

from qkv.attention.core import explicit_attention
from qkv.blocks.positions import rotate
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Attention with rotary positions, for the newest Q tokens of a sequence of K tokens: keys and
values come from a cache and are those of all K tokens, so key j has position j, and the last
query has position K - 1. The keys are not rotated yet. Rotate queries and keys: coordinates
i and i + D / 2 of a vector at position p form a pair (a, b), which becomes
(a cos t - b sin t, a sin t + b cos t) with the angle t = p * 10000^(-2i / D), for i from 0 to
D / 2 - 1 (the layout in halves). Scores are divided by sqrt(D). Use no mask at all.

queries: (B, H, Q, D)   keys: (B, H, K, D)   values: (B, H, K, Dv)   Q <= K, D is even

Return the output (B, H, Q, Dv).
"""


def rotary_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the output."""
    n_queries, n_keys, width = queries.shape[2], keys.shape[2], queries.shape[3]
    frequencies = 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)

    def turn(x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None] * frequencies  # (L, D / 2)
        a, b = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    queries = turn(queries, torch.arange(n_keys - n_queries, n_keys))
    keys = turn(keys, torch.arange(n_keys))
    return (queries @ keys.transpose(-2, -1) / width**0.5).softmax(-1) @ values


def reference(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute the output with the library."""
    places = torch.arange(keys.shape[2])
    new = places[keys.shape[2] - queries.shape[2] :]
    return explicit_attention(rotate(queries, new), rotate(keys, places), values)


def draws() -> list[Draw]:
    """A whole sequence, one new token, and several."""
    draw = normal(42)

    def inputs(n_queries: int, n_keys: int, d: int, d_value: int) -> tuple[Tensor, ...]:
        return draw(2, 3, n_queries, d), draw(2, 3, n_keys, d), draw(2, 3, n_keys, d_value)

    return [
        Draw("as many queries as keys", inputs(7, 7, 10, 10)),
        Draw("one new token", inputs(1, 11, 10, 10)),
        Draw("three new tokens", inputs(3, 13, 14, 14)),
        Draw("a width of 2", inputs(5, 11, 2, 2)),
    ]


def wrong_rotary(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    places: str = "last",
    turned: str = "queries and keys",
    signs: tuple[int, int] = (1, 1),
    layout: str = "halves",
    exponent: float = 2.0,
    divisor: str = "sqrt(D)",
    causal: bool = False,
) -> Tensor:
    """Compute attention with rotary positions with one step done in another way."""
    n_queries, n_keys, width = queries.shape[2], keys.shape[2], queries.shape[3]
    pairs = torch.arange(width // 2, dtype=torch.float64)
    frequencies = 10_000 ** (-exponent * pairs / width)

    def turn(x: Tensor, positions: Tensor, sign: int) -> Tensor:
        angles = sign * positions[:, None] * frequencies[: x.shape[-1] // 2]
        if layout == "mixed":  # the angles of one layout with the pairs of the other
            a, b = x.chunk(2, -1)
            wide = angles.repeat_interleave(2, -1)
            return x * wide.cos() + torch.cat((-b, a), -1) * wide.sin()
        cos, sin = angles.cos(), angles.sin()
        if layout == "interleaved":
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        a, b = x.chunk(2, -1)
        if layout == "no minus":
            return torch.cat((a * cos + b * sin, a * sin + b * cos), -1)
        if layout == "interleaved result":
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    new = {
        "last": torch.arange(n_keys - n_queries, n_keys),
        "from 0": torch.arange(n_queries),
        "all K - 1": torch.full((n_queries,), n_keys - 1),
        "all K - Q": torch.full((n_queries,), n_keys - n_queries),
        "from K": torch.arange(n_keys, n_keys + n_queries),
        "one late": torch.arange(n_keys - n_queries, n_keys) + 1,
    }[places]
    old = torch.arange(n_keys)
    if "queries" in turned:
        queries = turn(queries, new, signs[0])
    if "keys" in turned:
        keys = turn(keys, old, signs[1])
    if "values" in turned:
        values = turn(values, old, 1)
    scores = queries @ keys.mT / {"sqrt(D)": width**0.5, "1": 1.0, "D": width}[divisor]
    if causal:
        past = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        scores = scores.masked_fill(~past, float("-inf"))
    return scores.softmax(-1) @ values


MISTAKES = (
    Mistake(
        "the values are rotated, too",
        partial(wrong_rotary, turned="queries, keys, values"),
        "Your weights are right, but your output is made of rotated values.",
        "Positions matter for the scores alone.",
    ),
    Mistake(
        "the queries' positions begin at 0",
        partial(wrong_rotary, places="from 0"),
        "Your output is right only if there are as many queries as keys.",
        "With a cache, the newest tokens stand at the end of the sequence.",
    ),
    Mistake(
        "each query is at the last position",
        partial(wrong_rotary, places="all K - 1"),
        "Your output is right for one query and for the last of several.",
        "Only the last query has position K - 1.",
    ),
    Mistake(
        "each query is at the first new position",
        partial(wrong_rotary, places="all K - Q"),
        "Your output is right for one query and for the first of several.",
        "Each query has a position of its own.",
    ),
    Mistake(
        "the queries' positions begin at K",
        partial(wrong_rotary, places="from K"),
        "Your queries stand behind all keys.",
        "The keys of the new tokens are among the K keys.",
    ),
    Mistake(
        "the queries stand one position too late",
        partial(wrong_rotary, places="one late"),
        "Your last query has position K.",
        "Counting from 0, the last of K tokens has position K - 1.",
    ),
    Mistake(
        "the pairs are neighbors",
        partial(wrong_rotary, layout="interleaved"),
        "Your output is right for a width of 2: your pairs are (0, 1), (2, 3), ...",
        "Here coordinate i is paired with i + D / 2.",
    ),
    Mistake(
        "the angles are those of another layout",
        partial(wrong_rotary, layout="mixed"),
        "Your output is right for a width of 2: neighboring coordinates share an angle.",
        "i and i + D / 2 share an angle: repeat the angles as a whole, one copy after the other.",
    ),
    Mistake(
        "the sign of the first sine is wrong",
        partial(wrong_rotary, layout="no minus"),
        "Your vectors change their length when they are rotated.",
        "A rotation has one minus.",
    ),
    Mistake(
        "the rotation goes backward",
        partial(wrong_rotary, signs=(-1, -1)),
        "Your scores are those of the opposite distances.",
        "Which of the two sines has the minus?",
    ),
    Mistake(
        "the keys are rotated backward",
        partial(wrong_rotary, signs=(1, -1)),
        "Your scores depend on the sum of the two positions.",
        "Queries and keys are rotated in the same direction; the inner product subtracts.",
    ),
    Mistake(
        "the queries are rotated backward",
        partial(wrong_rotary, signs=(-1, 1)),
        "Your scores depend on the sum of the two positions.",
        "Queries and keys are rotated in the same direction; the inner product subtracts.",
    ),
    Mistake(
        "only the queries are rotated",
        partial(wrong_rotary, turned="queries"),
        "Your scores do not depend on the keys' positions.",
        "The score depends on the distance only if both are rotated.",
    ),
    Mistake(
        "only the keys are rotated",
        partial(wrong_rotary, turned="keys"),
        "Your scores do not depend on the queries' positions, as if all were at position 0.",
        "The score depends on the distance only if both are rotated.",
    ),
    Mistake(
        "nothing is rotated",
        partial(wrong_rotary, turned=""),
        "Your output does not depend on positions.",
        "Rotate queries and keys before the inner products.",
    ),
    Mistake(
        "the exponent is -i / D",
        partial(wrong_rotary, exponent=1.0),
        "Your later pairs turn too fast.",
        "i counts pairs: the exponent is -2i / D.",
    ),
    Mistake(
        "the exponent is -4i / D",
        partial(wrong_rotary, exponent=4.0),
        "Your later pairs turn too slowly.",
        "If you count 0, 2, 4, ..., the 2 of 2i is already there.",
    ),
    Mistake(
        "the exponent is 2i / D",
        partial(wrong_rotary, exponent=-2.0),
        "Your later pairs turn thousands of times faster than the first.",
        "Later pairs turn more slowly: the exponent is negative.",
    ),
    Mistake(
        "the scores are not divided",
        partial(wrong_rotary, divisor="1"),
        "Your weights are too sharp.",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by D",
        partial(wrong_rotary, divisor="D"),
        "Your weights are too equal.",
        "Equation 1 has a square root.",
    ),
    Mistake(
        "there is a causal mask",
        partial(wrong_rotary, causal=True),
        "Your queries do not see the keys after their own.",
        "The exercise asks for no mask.",
    ),
)


EXERCISE = Exercise(
    number="4.2",
    title="Rotary positions with cached keys",
    task=TASK.strip(),
    solve=rotary_attention,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="The positions of the queries are the last Q of 0, 1, ..., K - 1.",
    remark=(
        "The score depends on the distance of the two positions alone, so it would also be right "
        "to shift all positions by one number; to shift only the queries' is not."
    ),
)

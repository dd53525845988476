"""Exercise 3.2: grouped heads and the size of the cache."""

from functools import partial
from typing import Any

from torch import Tensor

from qkv.attention.core import explicit_attention
from qkv.errors import ShapeError
from qkv.tutorial.exercises.exercise import Answer, Draw, Exercise, Mistake, normal, together

TASK = """
Grouped-query attention: H query heads share G heads of keys and values. Query heads 0 to
H / G - 1 use key head 0, the next H / G use key head 1, and so on. Scores are divided by
sqrt(D); there is no mask. If G does not divide H, raise a ValueError.

queries: (B, H, Q, D)   keys: (B, G, K, D)   values: (B, G, K, Dv)

Return the output (B, H, Q, Dv), and, as an int, how many numbers a cache stores for one
token of one sequence in this layer. D and Dv may differ.
"""


def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, int]:
    """Return the output and the numbers stored for each token."""
    n_heads, n_groups = queries.shape[1], keys.shape[1]
    if n_heads % n_groups:
        raise ValueError(f"{n_groups} key heads do not divide {n_heads} query heads")
    size = n_heads // n_groups
    stored = n_groups * (keys.shape[-1] + values.shape[-1])
    keys, values = keys.repeat_interleave(size, dim=1), values.repeat_interleave(size, dim=1)
    scores = queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
    return scores.softmax(-1) @ values, stored


def reference(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, int]:
    """Compute the output with the library."""
    stored = keys[0, :, 0].numel() + values[0, :, 0].numel()
    return explicit_attention(queries, keys, values), stored


def run(answer: Answer, inputs: tuple[Any, ...]) -> Any:
    """Return what the answer returns, or "ValueError" if it raises one for the last draw."""
    if inputs[0].shape[1] % inputs[1].shape[1] == 0:
        return answer(*inputs)
    try:
        answer(*inputs)
    except (ValueError, ShapeError):
        return {"error raised": "ValueError"}
    except Exception as error:
        return {"error raised": type(error).__name__}
    return {"error raised": "none"}


def draws() -> list[Draw]:
    """Groups of several sizes, and one that does not exist."""
    draw = normal(32)

    def inputs(n_heads: int, n_groups: int) -> tuple[Tensor, ...]:
        return draw(3, n_heads, 7, 5), draw(3, n_groups, 11, 5), draw(3, n_groups, 11, 13)

    return [
        Draw("a key head for each query head", inputs(3, 3)),
        Draw("two groups of three heads", inputs(6, 2)),
        Draw("three groups of two heads", inputs(6, 3)),
        Draw("a single key head", inputs(3, 1)),
        Draw("seven query heads and three key heads", inputs(7, 3)),
    ]


def wrong_groups(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    spread: str = "interleave",
    divisor: str = "sqrt(D)",
    softmax: int = -1,
    stored: str = "G (D + Dv)",
    error: str = "ValueError",
) -> tuple[Tensor, int]:
    """Compute grouped attention and the size of the cache with one thing done in another way."""
    (batch, n_heads, _, d), (_, n_groups, n_keys, d_value) = queries.shape, values.shape
    if n_heads % n_groups:
        if error == "ValueError":
            raise ValueError("G does not divide H")
        assert error != "assert"
        if error == "IndexError":
            raise IndexError("head 3 of 3")
        if error == "RuntimeError":
            raise RuntimeError("7 and 6 do not match")
    size = n_heads // n_groups
    if error == "nothing":
        size = -(-n_heads // n_groups)
    numbers = {
        "G (D + Dv)": n_groups * (d + d_value),
        "G D": n_groups * d,
        "G Dv": n_groups * d_value,
        "2 G D": 2 * n_groups * d,
        "2 G Dv": 2 * n_groups * d_value,
        "H (D + Dv)": n_heads * (d + d_value),
        "2 H D": 2 * n_heads * d,
        "D + Dv": d + d_value,
        "K G (D + Dv)": n_keys * n_groups * (d + d_value),
        "B G (D + Dv)": batch * n_groups * (d + d_value),
        "B K G (D + Dv)": batch * n_keys * n_groups * (d + d_value),
        "8 G (D + Dv)": 8 * n_groups * (d + d_value),
        "2 G (D + Dv)": 2 * n_groups * (d + d_value),
    }[stored]

    def repeated(x: Tensor, how: str) -> Tensor:
        if how == "repeat":
            return x.repeat(1, size, 1, 1)[:, :n_heads]
        if how == "first":
            return x[:, :1].expand(-1, n_heads, -1, -1)
        if how == "mean":
            return x.mean(1, keepdim=True).expand(-1, n_heads, -1, -1)
        return x.repeat_interleave(size, dim=1)[:, :n_heads]

    keys = repeated(keys, "interleave" if spread == "values" else spread)
    values = repeated(values, {"values": "repeat", "keys": "interleave"}.get(spread, spread))
    scale = {"sqrt(D)": d**0.5, "1": 1.0, "D": d, "sqrt(Dv)": d_value**0.5}[divisor]
    return (queries @ keys.mT / scale).softmax(softmax) @ values, numbers


MISTAKES = (
    Mistake(
        "repeat in place of repeat_interleave",
        partial(wrong_groups, spread="repeat"),
        "Your query heads 0, 1, 2, ... use key heads 0, 1, 0, 1, ... in turn.",
        "Neighboring query heads share a key head.",
    ),
    Mistake(
        "keys and values are repeated in different orders",
        partial(wrong_groups, spread="values"),
        "Your keys are right, but a head mixes the values of another group.",
        "Repeat both in the same way.",
    ),
    Mistake(
        "all heads use the first key head",
        partial(wrong_groups, spread="first"),
        "Your output is right with a single key head only.",
        "Each group of query heads has its own key head.",
    ),
    Mistake(
        "the key heads are averaged",
        partial(wrong_groups, spread="mean"),
        "Your output is right with a single key head only.",
        "Each group of query heads has its own key head.",
    ),
    Mistake(
        "the values are not counted",
        partial(wrong_groups, stored="G D"),
        "Your size is that of the keys alone.",
        "What else does the next step need?",
    ),
    Mistake(
        "the keys are not counted",
        partial(wrong_groups, stored="G Dv"),
        "Your size is that of the values alone.",
        "What else does the next step need?",
    ),
    Mistake(
        "values are taken to be as wide as keys",
        partial(wrong_groups, stored="2 G D"),
        "Your size is twice that of the keys.",
        "D and Dv may differ.",
    ),
    Mistake(
        "keys are taken to be as wide as values",
        partial(wrong_groups, stored="2 G Dv"),
        "Your size is twice that of the values.",
        "D and Dv may differ.",
    ),
    Mistake(
        "the cache holds all query heads",
        partial(wrong_groups, stored="H (D + Dv)"),
        "Your size does not shrink with the number of key heads.",
        "Keys and values are stored before they are repeated.",
    ),
    Mistake(
        "the cache holds all query heads, with keys as wide as values",
        partial(wrong_groups, stored="2 H D"),
        "Your size does not shrink with the number of key heads.",
        "Keys and values are stored before they are repeated.",
    ),
    Mistake(
        "a single key head is counted",
        partial(wrong_groups, stored="D + Dv"),
        "Your size is that of one key head.",
        "All G heads are stored.",
    ),
    Mistake(
        "all tokens are counted",
        partial(wrong_groups, stored="K G (D + Dv)"),
        "Your size grows with the length.",
        "The question is about one token.",
    ),
    Mistake(
        "the whole batch is counted",
        partial(wrong_groups, stored="B G (D + Dv)"),
        "Your size is too large by the number of rows.",
        "The question is about one sequence.",
    ),
    Mistake(
        "all tokens of all rows are counted",
        partial(wrong_groups, stored="B K G (D + Dv)"),
        "Your size is that of the whole cache.",
        "The question is about one token of one sequence.",
    ),
    Mistake(
        "bytes are counted",
        partial(wrong_groups, stored="8 G (D + Dv)"),
        "Your size is too large by 8, the bytes of a number in float64.",
        "The question is how many numbers there are.",
    ),
    Mistake(
        "keys and values are counted twice",
        partial(wrong_groups, stored="2 G (D + Dv)"),
        "Your size is too large by 2.",
        "D + Dv has both already.",
    ),
    Mistake(
        "groups that do not fit are not refused",
        partial(wrong_groups, error="RuntimeError"),
        "With 7 query heads and 3 key heads, torch complains about shapes, in its own words.",
        "Test whether G divides H before anything else.",
    ),
    Mistake(
        "groups that do not fit are not refused",
        partial(wrong_groups, error="IndexError"),
        "With 7 query heads and 3 key heads, torch complains about shapes, in its own words.",
        "Test whether G divides H before anything else.",
    ),
    Mistake(
        "groups that do not fit are refused by assert",
        partial(wrong_groups, error="assert"),
        "With 7 query heads and 3 key heads your function raises AssertionError.",
        "python -O removes assertions; an argument is refused by a ValueError.",
    ),
    Mistake(
        "groups that do not fit are accepted",
        partial(wrong_groups, error="nothing"),
        "With 7 query heads and 3 key heads your function returns a result.",
        "Test whether G divides H before anything else.",
    ),
    Mistake(
        "the scores are not divided",
        partial(wrong_groups, divisor="1"),
        "Your weights are too sharp.",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by D",
        partial(wrong_groups, divisor="D"),
        "Your weights are too equal.",
        "Equation 1 has a square root.",
    ),
    Mistake(
        "the scores are divided by the root of the values' width",
        partial(wrong_groups, divisor="sqrt(Dv)"),
        "Your weights are too equal.",
        "The inner product runs over the width of queries and keys.",
    ),
    Mistake(
        "the softmax runs over the queries",
        partial(wrong_groups, softmax=-2),
        "Your weights sum to 1 over the queries for each key.",
        "Each query spreads a weight of 1 over the keys, the last axis.",
    ),
)


REFUSED = ("RuntimeError", "IndexError", "assert", "nothing")  # in place of ValueError

EXERCISE = Exercise(
    number="3.2",
    title="Grouped heads and the size of the cache",
    task=TASK.strip(),
    solve=grouped_attention,
    reference=reference,
    draws=draws,
    mistakes=(
        *MISTAKES,
        *together(MISTAKES, "error", "RuntimeError", "IndexError", "assert", "nothing"),
    ),
    run=run,
    hint="Key heads a, b must become a, a, a, b, b, b, and not a, b, a, b, a, b.",
    remark=(
        "The cache keeps the G heads before they are repeated, so it shrinks by H / G: that is "
        "what grouping is for."
    ),
)

"""Exercise 2.2: scaled dot-product attention with masks."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.attention.core import explicit_attention
from qkv.attention.core import masked_softmax as library_softmax
from qkv.tutorial.exercises.exercise import Answer, Draw, Exercise, Mistake, normal, real, together

TASK = """
Compute softmax(Q K^T / sqrt(D)) V for each batch row and head, with two kinds of mask.
The mask is None or a boolean tensor that broadcasts to (B, H, Q, K), True = may attend.
If causal is True, a query also sees no later key; the last query is aligned with the last
key, so with 3 queries and 5 keys the first query sees three keys, the last all five.
A query that may attend to nothing returns zeros, and the gradient of everything must be
free of NaN (the check calls backward).

queries: (B, H, Q, D)   keys: (B, H, K, D)   values: (B, H, K, Dv)

Return the output (B, H, Q, Dv).
"""


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """Return the output."""
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool)
    if causal:
        allowed = allowed.tril(n_keys - n_queries)
    if mask is not None:
        allowed = allowed & mask
    nothing = ~allowed.any(-1, keepdim=True)  # these queries see everything, and are zeroed below
    scores = queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
    scores = scores.masked_fill(~(allowed | nothing), float("-inf"))
    return scores.softmax(-1).masked_fill(nothing, 0.0) @ values


def reference(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """Compute the output with the library."""
    return explicit_attention(queries, keys, values, mask=mask, causal=causal)


def run(answer: Answer, inputs: tuple[Any, ...]) -> Any:
    """Return the output, and its gradients with respect to queries, keys and values."""
    leaves = [x.clone().requires_grad_() for x in inputs[:3]]
    output = answer(*leaves, *inputs[3:])
    if not isinstance(output, Tensor) or not output.requires_grad:
        return {"output": output}
    slopes = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    gradients = torch.autograd.grad((output * slopes).sum(), leaves, allow_unused=True)
    names = ("queries", "keys", "values")
    return {
        "output": output.detach(),
        **{f"gradient of the {name}": g for name, g in zip(names, gradients, strict=True)},
    }


def draws() -> list[Draw]:
    """Masks of several shapes, some with rows without any key."""
    draw = normal(22)

    def inputs(n_queries: int, n_keys: int, mask: Tensor | None, causal: bool) -> tuple[Any, ...]:
        sizes = (draw(2, 3, n_queries, 5), draw(2, 3, n_keys, 5), draw(2, 3, n_keys, 13))
        return *sizes, mask, causal

    some = draw(2, 3, 7, 11) > 0
    some[:, :, :, 0] = True
    empty = some.clone()
    empty[1, 2, 4] = empty[0, 0, 0] = False
    return [
        Draw("inputs without a mask", inputs(7, 11, None, False)),
        Draw("inputs with a mask", inputs(7, 11, some, False)),
        Draw("padded keys", inputs(7, 11, real((4, 11), 11)[:, None, None], False)),
        Draw("causal attention, as many queries as keys", inputs(7, 7, None, True)),
        Draw("causal attention with fewer queries than keys", inputs(3, 7, None, True)),
        Draw("a causal and a padding mask", inputs(7, 7, real((7, 5), 7)[:, None, None], True)),
        Draw("queries that may attend to nothing", inputs(7, 11, empty, False)),
    ]


def wrong_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    causal: bool,
    *,
    divisor: str = "sqrt(D)",
    triangle: str = "last",
    masks: str = "both",
    weigh: str = "masked softmax",
) -> Tensor:
    """Compute attention with one step done in another way."""
    n_queries, n_keys, width = queries.shape[2], keys.shape[2], queries.shape[3]
    every = torch.ones(n_queries, n_keys, dtype=torch.bool)
    past = {
        "last": every.tril(n_keys - n_queries),
        "first": every.tril(),
        "without itself": every.tril(n_keys - n_queries - 1),
        "one ahead": every.tril(n_keys - n_queries + 1),
        "future": every.triu(n_keys - n_queries),
        "none": every,
    }[triangle]
    past = past if causal else every
    if mask is None:
        allowed = past
    elif masks == "inverted":
        allowed = past & ~mask
    elif masks == "none" or (masks == "causal alone" and causal):
        allowed = past
    elif masks == "mask alone":
        allowed = every & mask
    elif masks == "either" and causal:
        allowed = past | mask
    else:
        allowed = past & mask
    if masks.startswith("all inverted"):
        allowed = ~allowed
    scores = (
        queries
        @ keys.mT
        / {
            "sqrt(D)": width**0.5,
            "1": 1.0,
            "D": width,
            "1 / sqrt(D)": width**-0.5,
            "sqrt(Dv)": values.shape[-1] ** 0.5,
            "sqrt(K)": n_keys**0.5,
            "sqrt(H D)": (queries.shape[1] * width) ** 0.5,
        }[divisor]
    )
    return (
        _weigh(scores, allowed, weigh) @ values
        if weigh != "output"
        else (scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ values).nan_to_num()
    )


def _weigh(scores: Tensor, allowed: Tensor, weigh: str) -> Tensor:
    """Return the weights, made from scores and mask in one of several ways."""
    minus = float("-inf")
    bias = torch.zeros_like(scores).masked_fill(~allowed, minus)
    return {
        "masked softmax": lambda: library_softmax(scores, allowed),
        "-1e9": lambda: scores.masked_fill(~allowed, -1e9).softmax(-1),
        "+ -1e9": lambda: (scores - 1e9 * ~allowed).softmax(-1),
        "NaN": lambda: scores.masked_fill(~allowed, minus).softmax(-1),
        "+ min": lambda: (scores + torch.finfo(scores.dtype).min * ~allowed).softmax(-1),
        "+ NaN": lambda: (scores + bias).softmax(-1),
        "+ NaN to 0": lambda: (scores + bias).softmax(-1).nan_to_num(),
        "afterwards": lambda: scores.softmax(-1) * allowed,
        "zero scores": lambda: (scores * allowed).softmax(-1),
        "queries": lambda: scores.masked_fill(~allowed, minus).softmax(-2).nan_to_num(),
        "queries, NaN": lambda: scores.masked_fill(~allowed, minus).softmax(-2),
        "no softmax": lambda: scores * allowed,
    }[weigh]()


MISTAKES = (
    Mistake(
        "the scores are not divided",
        partial(wrong_attention, divisor="1"),
        "Your weights are too sharp: the scores are too large by sqrt(D).",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by D",
        partial(wrong_attention, divisor="D"),
        "Your weights are too equal: the scores are too small by sqrt(D).",
        "Equation 1 has a square root.",
    ),
    Mistake(
        "the scores are multiplied by sqrt(D)",
        partial(wrong_attention, divisor="1 / sqrt(D)"),
        "Your weights are far too sharp: the scores are too large by D.",
        "The variance of an inner product is D; what brings it back to 1?",
    ),
    Mistake(
        "the scores are divided by the root of the values' width",
        partial(wrong_attention, divisor="sqrt(Dv)"),
        "Your weights are too equal; the width of the values is in them.",
        "The inner product runs over the width of queries and keys.",
    ),
    Mistake(
        "the scores are divided by the root of the number of keys",
        partial(wrong_attention, divisor="sqrt(K)"),
        "Your weights change with the length of the sequence.",
        "d_k is a width; here it is the last axis of the keys.",
    ),
    Mistake(
        "the scores are divided by the root of the model's width",
        partial(wrong_attention, divisor="sqrt(H D)"),
        "Your weights are too equal: the scores are too small by the root of the number of heads.",
        "d_k is the width of one head.",
    ),
    Mistake(
        "the causal triangle is at the first key",
        partial(wrong_attention, triangle="first"),
        "With 3 queries and 7 keys your first query sees one key; it should see five.",
        "The last query is the newest token, so the last diagonal moves with K - Q.",
    ),
    Mistake(
        "a causal query does not see itself",
        partial(wrong_attention, triangle="without itself"),
        "Your first causal query sees nothing, and each other one key too few.",
        "The diagonal belongs to the past.",
    ),
    Mistake(
        "a causal query sees one key too many",
        partial(wrong_attention, triangle="one ahead"),
        "Your causal queries see the key after their own.",
        "Which diagonal is the last one that is kept?",
    ),
    Mistake(
        "causal queries see the future",
        partial(wrong_attention, triangle="future"),
        "Your first causal query sees all keys and your last only its own.",
        "Compare tril with triu.",
    ),
    Mistake(
        "causal is ignored",
        partial(wrong_attention, triangle="none"),
        "Your causal queries see all keys.",
        "If causal is True, a query sees no later key.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_attention, masks="inverted"),
        "Your queries see exactly the keys that they should not see.",
        "True = may attend, unlike in nn.MultiheadAttention.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_attention, masks="inverted", weigh="NaN"),
        "Your queries see exactly the keys that they should not see.",
        "True = may attend, unlike in nn.MultiheadAttention.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_attention, masks="all inverted", weigh="NaN"),
        "Your queries see exactly the keys that they should not see.",
        "True = may attend, unlike in nn.MultiheadAttention.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_attention, masks="all inverted"),
        "Your queries see exactly the keys that they should not see.",
        "True = may attend, unlike in nn.MultiheadAttention.",
    ),
    Mistake(
        "the mask is ignored",
        partial(wrong_attention, masks="none"),
        "Your queries see all keys, or the whole past.",
        "Where the mask is False, the weight must be 0.",
    ),
    Mistake(
        "both masks are ignored",
        partial(wrong_attention, masks="none", triangle="none"),
        "Your queries see all keys.",
        "Where the mask is False, and where a key is later, the weight must be 0.",
    ),
    Mistake(
        "causal replaces the mask",
        partial(wrong_attention, masks="causal alone"),
        "With both masks, your queries see padding.",
        "A key must be allowed by both.",
    ),
    Mistake(
        "the mask replaces causal",
        partial(wrong_attention, masks="mask alone"),
        "With both masks, your queries see later keys.",
        "A key must be allowed by both.",
    ),
    Mistake(
        "one of the two masks is enough",
        partial(wrong_attention, masks="either"),
        "With both masks, your queries see keys that only one of them allows.",
        "Compare & with |.",
    ),
    Mistake(
        "masked scores are -1e9",
        partial(wrong_attention, weigh="-1e9"),
        "Your queries without any key get weights of 1 / K: the mean of all values, not zeros.",
        "If all scores are equally small, the softmax does not see that they are small.",
    ),
    Mistake(
        "masked scores are -1e9",
        partial(wrong_attention, weigh="+ min"),
        "Your queries without any key get weights of 1 / K: the mean of all values, not zeros.",
        "If all scores are equally small, the softmax does not see that they are small.",
    ),
    Mistake(
        "-1e9 is added to masked scores",
        partial(wrong_attention, weigh="+ -1e9"),
        "Your queries without any key get the weights of a query without a mask.",
        "If all scores get the same constant, the softmax does not see it.",
    ),
    Mistake(
        "a softmax over nothing",
        partial(wrong_attention, weigh="NaN"),
        "Your output is NaN for queries without any key: exp(-inf) / sum of exp(-inf) is 0 / 0.",
        "Give these queries some key for the softmax, and set their weights to 0 afterwards.",
    ),
    Mistake(
        "a softmax over nothing",
        partial(wrong_attention, weigh="+ NaN"),
        "Your output is NaN for queries without any key: exp(-inf) / sum of exp(-inf) is 0 / 0.",
        "Give these queries some key for the softmax, and set their weights to 0 afterwards.",
    ),
    Mistake(
        "the NaN is hidden, but not from the gradient",
        partial(wrong_attention, weigh="+ NaN to 0"),
        "Your output is right, and the gradients of queries and keys are NaN.",
        "Zeros that replace NaN come too late: the softmax itself must never see only -inf.",
    ),
    Mistake(
        "the NaN is hidden, but not from the gradient",
        partial(wrong_attention, weigh="output"),
        "Your output is right, and the gradient of the values is NaN: 0 * NaN.",
        "Zeros that replace NaN come too late: the softmax itself must never see only -inf.",
    ),
    Mistake(
        "the mask comes after the softmax",
        partial(wrong_attention, weigh="afterwards"),
        "Your masked weights are 0, but the others sum to less than 1.",
        "The softmax must not see masked keys at all.",
    ),
    Mistake(
        "masked scores are 0",
        partial(wrong_attention, weigh="zero scores"),
        "Your masked keys keep a weight: exp(0) is 1.",
        "Which number has an exponential of 0?",
    ),
    Mistake(
        "the softmax runs over the queries",
        partial(wrong_attention, weigh="queries"),
        "Your weights sum to 1 over the queries for each key.",
        "Each query spreads a weight of 1 over the keys, the last axis.",
    ),
    Mistake(
        "the softmax runs over the queries",
        partial(wrong_attention, weigh="queries, NaN"),
        "Your weights sum to 1 over the queries for each key.",
        "Each query spreads a weight of 1 over the keys, the last axis.",
    ),
    Mistake(
        "there is no softmax",
        partial(wrong_attention, weigh="no softmax"),
        "Your weights are the scores: they do not sum to 1.",
        "Equation 1 has a softmax around the scores.",
    ),
)

# What is wrong on every input, and may be together with a mask that is still missing: the scale
# and the axis of the softmax come first, so that each can be mended by itself.
EVERYWHERE = (*MISTAKES[:6], *MISTAKES[-3:])
NO_MASK = together(EVERYWHERE, "masks", "none")


EXERCISE = Exercise(
    number="2.2",
    title="Scaled dot-product attention with masks",
    task=TASK.strip(),
    solve=attention,
    reference=reference,
    draws=draws,
    mistakes=(
        *MISTAKES,
        *together(MISTAKES, "weigh", "-1e9", "+ -1e9", "+ min", "NaN", "+ NaN"),
        *NO_MASK,
        *together((*EVERYWHERE, *NO_MASK), "triangle", "none"),
    ),
    run=run,
    hint=(
        "Begin with the input that has no mask: equation 1 divides the scores by one number. Then "
        "combine everything into one boolean mask before the softmax; torch.tril takes a second "
        "argument that says which diagonal is the last one kept."
    ),
    remark=(
        "A softmax over minus infinities alone is 0/0: NaN forward and backward. So queries "
        "without a key see all keys first, and are set to zero afterwards, as in the library."
    ),
)

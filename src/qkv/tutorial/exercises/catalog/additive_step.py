"""Exercise 1.1: one step of Bahdanau's attention."""

from functools import partial

import torch
from torch import Tensor

from qkv.attention.additive import AdditiveAttention
from qkv.attention.core import masked_softmax
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal, real

TASK = """
The decoder's state s scores each of the encoder's states h_j (the rows of H) by
v^T tanh(W s + U h_j). The weights are the softmax of the scores over the real positions;
padding gets a weight of 0. The context is the weighted sum of the rows of H.

s: (B, Ds)   H: (B, K, Dh)   W: (A, Ds)   U: (A, Dh)   v: (A,)
mask: (B, K), True = a real token; each row has at least one.

Return the context (B, Dh) and the weights (B, K), in this order.
"""


def context(
    s: Tensor, H: Tensor, W: Tensor, U: Tensor, v: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the context and the weights."""
    hidden = torch.tanh((s @ W.T)[:, None] + H @ U.T)  # (B, 1, A) + (B, K, A)
    scores = hidden @ v  # (B, K)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights[:, None] @ H)[:, 0], weights


def reference(
    s: Tensor, H: Tensor, W: Tensor, U: Tensor, v: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute both with the library's module."""
    module = AdditiveAttention(s.shape[1], H.shape[2], len(v)).to(s.dtype).requires_grad_(False)
    module.query.weight.copy_(W)
    module.key.weight.copy_(U)
    module.vector.copy_(v)
    queries, keys = s[:, None], module.keys(H)
    weights = module.weights(queries, keys, mask[:, None, None], None)[:, 0, 0]
    return module(queries, H, mask=mask[:, None, None])[:, 0], weights


def draws() -> list[Draw]:
    """All lengths and widths are different primes."""
    draw = normal(11)

    def inputs(batch: int, keys: int, *lengths: int) -> tuple[Tensor, ...]:
        s, H, W, U, v = draw(batch, 3), draw(batch, keys, 5), draw(7, 3), draw(7, 5), draw(7)
        return s, H, W, U, v, real(lengths or (keys,) * batch, keys)

    return [
        Draw("a batch without padding", inputs(2, 11)),
        Draw("a batch with padding", inputs(2, 13, 4, 13)),
        Draw("a row with a single real token", inputs(3, 11, 1, 6, 10)),
    ]


def wrong_context(
    s: Tensor,
    H: Tensor,
    W: Tensor,
    U: Tensor,
    v: Tensor,
    mask: Tensor,
    *,
    score: str = "tanh",
    weigh: str = "softmax",
    mix: str = "H",
) -> tuple[Tensor, Tensor]:
    """Compute context and weights with one step done in another way."""
    query, keys = (s @ W.T)[:, None], H @ U.T
    scores = {
        "tanh": lambda: torch.tanh(query + keys) @ v,
        "no tanh": lambda: (query + keys) @ v,
        "tanh outside": lambda: torch.tanh((query + keys) @ v),
        "tanh of each": lambda: (torch.tanh(query) + torch.tanh(keys)) @ v,
        "scaled": lambda: torch.tanh(query + keys) @ v / len(v) ** 0.5,
        "no v": lambda: torch.tanh(query + keys).sum(-1),
        "product": lambda: torch.tanh(query * keys) @ v,
    }[score]()
    minus = float("-inf")
    weights = {
        "softmax": lambda: scores.masked_fill(~mask, minus).softmax(-1),
        "inverted": lambda: masked_softmax(scores, ~mask),
        "inverted, NaN": lambda: scores.masked_fill(mask, minus).softmax(-1),
        "no mask": lambda: scores.softmax(-1),
        "mask afterwards": lambda: scores.softmax(-1) * mask,
        "zero scores": lambda: (scores * mask).softmax(-1),
        "batch": lambda: scores.masked_fill(~mask, minus).softmax(0).nan_to_num(),
        "batch, NaN": lambda: scores.masked_fill(~mask, minus).softmax(0),
        "no softmax": lambda: scores * mask,
        "exp": lambda: scores.exp() * mask,
    }[weigh]()
    if mix == "keys":
        return (weights[:, None] @ keys)[:, 0], weights
    if mix == "mean":
        return (weights[..., None] * H).mean(1), weights
    mixed = (weights[:, None] @ H)[:, 0]
    return (weights, mixed) if mix == "exchanged" else (mixed, weights)


MISTAKES = (
    Mistake(
        "the mask is inverted",
        partial(wrong_context, weigh="inverted"),
        "Your weights are above 0 at the padding and 0 at the real tokens.",
        "True means a real token, so the scores to remove are those where the mask is False.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_context, weigh="inverted, NaN"),
        "Your weights are above 0 at the padding and 0 at the real tokens.",
        "True means a real token, so the scores to remove are those where the mask is False.",
    ),
    Mistake(
        "the mask is not used",
        partial(wrong_context, weigh="no mask"),
        "Your weights sum to 1 over all positions, padding included.",
        "Padding must get a weight of exactly 0: what score does the softmax turn into 0?",
    ),
    Mistake(
        "the mask comes after the softmax",
        partial(wrong_context, weigh="mask afterwards"),
        "Your weights at the padding are 0, but the others of a padded row sum to less than 1.",
        "The softmax must not see the padding at all.",
    ),
    Mistake(
        "masked scores are 0",
        partial(wrong_context, weigh="zero scores"),
        "Your weights at the padding are above 0 and equal within a row: exp(0) is 1, not 0.",
        "Which number has an exponential of 0?",
    ),
    Mistake(
        "the softmax runs over the batch",
        partial(wrong_context, weigh="batch"),
        "Your weights sum to 1 over the rows of the batch at each position, not within a row.",
        "The positions of H are the last axis of the scores.",
    ),
    Mistake(
        "the softmax runs over the batch",
        partial(wrong_context, weigh="batch, NaN"),
        "Your weights sum to 1 over the rows of the batch, and are NaN where all rows are padded.",
        "The positions of H are the last axis of the scores.",
    ),
    Mistake(
        "there is no softmax",
        partial(wrong_context, weigh="no softmax"),
        "Your weights are the scores themselves: some are negative, and they do not sum to 1.",
        "Weights are the softmax of the scores.",
    ),
    Mistake(
        "the exponentials are not divided by their sum",
        partial(wrong_context, weigh="exp"),
        "Your weights are positive, but a row does not sum to 1.",
        "A softmax has a denominator.",
    ),
    Mistake(
        "the tanh is missing",
        partial(wrong_context, score="no tanh"),
        "Your scores are linear in s and h, so s adds the same to each score and cancels.",
        "What makes the score a network with a hidden layer?",
    ),
    Mistake(
        "the tanh comes after the product with v",
        partial(wrong_context, score="tanh outside"),
        "All your scores lie between -1 and 1, so your weights are flatter than they should be.",
        "v weighs the hidden units, after each has passed its tanh.",
    ),
    Mistake(
        "each projection has its own tanh",
        partial(wrong_context, score="tanh of each"),
        "Your query adds the same to all scores of a row, so your weights do not depend on s.",
        "The sum W s + U h goes through one tanh.",
    ),
    Mistake(
        "the projections are multiplied instead of added",
        partial(wrong_context, score="product"),
        "Your scores come from the product of W s and U h.",
        "This is additive attention.",
    ),
    Mistake(
        "the scores are divided by a square root",
        partial(wrong_context, score="scaled"),
        "Your weights are flatter than they should be: the scores are smaller by sqrt(A).",
        "The division belongs to the dot products of 2017, not to this score.",
    ),
    Mistake(
        "v is missing",
        partial(wrong_context, score="no v"),
        "Your scores are the plain sum of the hidden units.",
        "Each hidden unit has its own weight.",
    ),
    Mistake(
        "the projected states are mixed instead of H",
        partial(wrong_context, mix="keys"),
        "Your context has the width A of the hidden layer, not that of H.",
        "U h serves the scores alone.",
    ),
    Mistake(
        "the weighted states are averaged instead of added",
        partial(wrong_context, mix="mean"),
        "Your weights are right, and your context is smaller by the number of positions.",
        "The weights already sum to 1.",
    ),
    Mistake(
        "the two results are exchanged",
        partial(wrong_context, mix="exchanged"),
        "Your first result has a number for each position.",
        "The context comes first.",
    ),
)


EXERCISE = Exercise(
    number="1.1",
    title="One step of Bahdanau's attention",
    task=TASK.strip(),
    solve=context,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint=(
        "Compute W s once and U h for all positions, then let broadcasting add them: a (B, 1, A) "
        "and a (B, K, A) tensor give (B, K, A)."
    ),
    remark=(
        "Setting scores to minus infinity before the softmax gives padding a weight of exactly 0 "
        "and leaves the other weights with a sum of 1."
    ),
)

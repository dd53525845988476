"""Exercise 3.1: multi-head attention from its four matrices."""

from functools import partial

from torch import Tensor

from qkv.attention.multi_head import MultiHeadAttention
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Self-attention with several heads and no mask. Project x by W_Q, W_K and W_V (x @ W_Q). Head
i uses columns i * D / H to (i + 1) * D / H - 1 of each projection, with scores divided by
the square root of the head's own width. Concatenate the heads' outputs in order and multiply
by W_O.

x: (B, L, D)   W_Q, W_K, W_V, W_O: (D, D)   n_heads: H, which divides D

Return the output (B, L, D).
"""


def multi_head(
    x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor, n_heads: int
) -> Tensor:
    """Return the output."""
    batch, length, width = x.shape
    d_head = width // n_heads

    def split(y: Tensor) -> Tensor:  # (B, L, D) -> (B, H, L, D / H)
        return y.view(batch, length, n_heads, d_head).transpose(1, 2)

    queries, keys, values = split(x @ W_Q), split(x @ W_K), split(x @ W_V)
    weights = (queries @ keys.transpose(-2, -1) / d_head**0.5).softmax(-1)
    heads = (weights @ values).transpose(1, 2)  # (B, L, H, D / H)
    return heads.reshape(batch, length, width) @ W_O


def reference(
    x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor, n_heads: int
) -> Tensor:
    """Compute the output with the library's module, whose weights are (out, in)."""
    module = MultiHeadAttention(x.shape[2], n_heads, bias=False).to(x.dtype).requires_grad_(False)
    for linear, weight in (
        (module.query, W_Q),
        (module.key, W_K),
        (module.value, W_V),
        (module.output, W_O),
    ):
        linear.weight.copy_(weight.T)
    return module(x)


def draws() -> list[Draw]:
    """One head, several heads, and as many tokens as heads."""
    draw = normal(31)

    def inputs(batch: int, length: int, width: int, n_heads: int) -> tuple[Tensor | int, ...]:
        return draw(batch, length, width), *(draw(width, width) for _ in range(4)), n_heads

    return [
        Draw("a single head", inputs(2, 7, 5, 1)),
        Draw("three heads", inputs(2, 7, 15, 3)),
        Draw("five heads", inputs(3, 11, 10, 5)),
        Draw("as many tokens as heads", inputs(2, 3, 21, 3)),
    ]


def wrong_heads(
    x: Tensor,
    W_Q: Tensor,
    W_K: Tensor,
    W_V: Tensor,
    W_O: Tensor,
    n_heads: int,
    *,
    cut: str = "blocks",
    join: str = "blocks",
    divisor: str = "head",
    softmax: int = -1,
    turned: str = "",
    values: str = "V",
    output: bool = True,
) -> Tensor:
    """Compute multi-head attention with one step done in another way."""
    batch, length, width = x.shape
    d_head = width // n_heads
    if turned:
        W_O = W_O.T
        W_Q, W_K, W_V = (W_Q.T, W_K.T, W_V.T) if turned == "all" else (W_Q, W_K, W_V)

    def split(y: Tensor) -> Tensor:
        if cut == "view":
            return y.reshape(batch, n_heads, length, d_head)
        if cut == "interleaved":
            return y.view(batch, length, d_head, n_heads).permute(0, 3, 1, 2)
        if cut == "none":
            return y[:, None]
        return y.view(batch, length, n_heads, d_head).transpose(1, 2)

    queries, keys = split(x @ W_Q), split(x @ W_K)
    mixed = split(x @ {"V": W_V, "K": W_K, "Q": W_Q}[values]) if values != "x" else split(x)
    scale = {"head": d_head**0.5, "model": width**0.5, "none": 1.0, "d": d_head}[divisor]
    heads = (queries @ keys.mT / scale).softmax(softmax) @ mixed  # (B, H, L, d)
    if join == "view":
        merged = heads.reshape(batch, length, width)
    elif join == "interleaved":
        merged = heads.permute(0, 2, 3, 1).reshape(batch, length, width)
    elif join == "swapped":
        merged = heads.transpose(2, 3).reshape(batch, width, length).mT
    else:
        merged = heads.transpose(1, 2).reshape(batch, length, width)
    return merged @ W_O if output else merged


MISTAKES = (
    Mistake(
        "the heads are cut without a transpose",
        partial(wrong_heads, cut="view"),
        "Each of your heads is made of pieces of different tokens.",
        "view keeps the order of the numbers; first cut the last axis alone.",
    ),
    Mistake(
        "the heads are joined without a transpose",
        partial(wrong_heads, join="view"),
        "Your output mixes tokens: its first rows come from the first head alone.",
        "Bring L back in front of H before the two last axes become one.",
    ),
    Mistake(
        "the heads are cut and joined without a transpose",
        partial(wrong_heads, cut="view", join="view"),
        "Your shapes fit both ways, but each head is made of pieces of different tokens.",
        "view keeps the order of the numbers; first cut the last axis alone.",
    ),
    Mistake(
        "the heads are interleaved",
        partial(wrong_heads, cut="interleaved", join="interleaved"),
        "Your head i has every H-th column of a projection.",
        "Cut the last axis into (H, D / H), not into (D / H, H).",
    ),
    Mistake(
        "the heads are interleaved when cut",
        partial(wrong_heads, cut="interleaved"),
        "Your head i has every H-th column of a projection.",
        "Cut the last axis into (H, D / H), not into (D / H, H).",
    ),
    Mistake(
        "the heads are interleaved when joined",
        partial(wrong_heads, join="interleaved"),
        "Your heads are right, but their numbers alternate in the output.",
        "Concatenating means: all of head 0, then all of head 1.",
    ),
    Mistake(
        "W_O is forgotten",
        partial(wrong_heads, output=False),
        "Your output is the concatenation of the heads.",
        "There is a fourth matrix.",
    ),
    Mistake(
        "the scores are divided by the root of the model's width",
        partial(wrong_heads, divisor="model"),
        "Your weights are too equal wherever there are several heads.",
        "The inner product runs over the width of one head.",
    ),
    Mistake(
        "the scores are not divided",
        partial(wrong_heads, divisor="none"),
        "Your weights are too sharp.",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by the width of a head",
        partial(wrong_heads, divisor="d"),
        "Your weights are too equal.",
        "Equation 1 has a square root.",
    ),
    Mistake(
        "there is only one head",
        partial(wrong_heads, cut="none", divisor="model"),
        "Your output is right for a single head: you never cut the width.",
        "Each head has its own scores, from its own columns.",
    ),
    Mistake(
        "there is only one head, divided as if there were several",
        partial(wrong_heads, cut="none"),
        "Your scores run over the whole width.",
        "Each head has its own scores, from its own columns.",
    ),
    Mistake(
        "the matrices are turned",
        partial(wrong_heads, turned="all"),
        "Your projections are x @ W.T.",
        "Here the matrices are (in, out), unlike the weight of nn.Linear.",
    ),
    Mistake(
        "W_O is turned",
        partial(wrong_heads, turned="output"),
        "Your heads are right, and your last product is with W_O.T.",
        "Here the matrices are (in, out), unlike the weight of nn.Linear.",
    ),
    Mistake(
        "the softmax runs over the queries",
        partial(wrong_heads, softmax=-2),
        "Your weights sum to 1 over the queries for each key.",
        "Each query spreads a weight of 1 over the keys, the last axis.",
    ),
    Mistake(
        "the softmax runs over the heads",
        partial(wrong_heads, softmax=1),
        "Your weights sum to 1 over the heads.",
        "Each query spreads a weight of 1 over the keys, the last axis.",
    ),
    Mistake(
        "the keys are mixed instead of the values",
        partial(wrong_heads, values="K"),
        "Your output is made of keys: W_V has no influence.",
        "What does a token contribute: q, k or v?",
    ),
    Mistake(
        "the tokens are mixed instead of the values",
        partial(wrong_heads, values="x"),
        "Your output is made of the tokens themselves: W_V has no influence.",
        "What does a token contribute: q, k or v?",
    ),
)


EXERCISE = Exercise(
    number="3.1",
    title="Multi-head attention from its four matrices",
    task=TASK.strip(),
    solve=multi_head,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint=(
        "view cuts the last axis into (H, D / H); only a transpose afterwards moves H in front "
        "of L. After attention, do both steps in the opposite order."
    ),
    remark=(
        "view(B, H, L, D / H) runs without an error too, but its heads are made of pieces of "
        "different tokens: a shape that is right proves nothing."
    ),
)

"""Exercise 5.1: a decoder block from its parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal, real

TASK = """
Put the three sublayers of a decoder block together: self-attention, cross-attention to the
memory (the encoder's output), and the feed-forward network, in this order, each as
x = norm(x + f(x)). The parts are functions:

attend_self(queries, keys, mask) and attend_cross(queries, keys, mask) take two (B, ., D)
    tensors, the tokens that attend and the tokens attended to, and a boolean mask that
    broadcasts to (B, Q, K), True = may attend; they return (B, Q, D);
feed_forward(x) and norms[0](x), norms[1](x), norms[2](x) keep the shape.

Self-attention is causal: a token sees itself and earlier tokens. Cross-attention sees the
real tokens of the memory. Each sublayer has its own norm, in order.

x: (B, L, D)   memory: (B, K, D)   memory_mask: (B, K), True = a real token

Return the output (B, L, D).
"""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Part = Callable[[Tensor], Tensor]


def decoder_block(
    x: Tensor,
    memory: Tensor,
    memory_mask: Tensor,
    attend_self: Callable[[Tensor, Tensor, Tensor], Tensor],
    attend_cross: Callable[[Tensor, Tensor, Tensor], Tensor],
    feed_forward: Callable[[Tensor], Tensor],
    norms: list[Callable[[Tensor], Tensor]],
) -> Tensor:
    """Return the block's output."""
    length = x.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    x = norms[0](x + attend_self(x, x, causal))
    x = norms[1](x + attend_cross(x, memory, memory_mask[:, None]))
    return norms[2](x + feed_forward(x))


def make_attention(draw: Callable[..., Tensor], width: int) -> Attend:
    """Make attention with one head and random weights."""
    W_Q, W_K, W_V = (draw(width, width) for _ in range(3))

    def attend(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        scores = (queries @ W_Q) @ (keys @ W_K).mT / width**0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ (keys @ W_V)

    return attend


def make_norm(draw: Callable[..., Tensor], width: int) -> Part:
    """Make a layer norm with random parameters."""
    weight, bias = draw(width), draw(width)
    return lambda x: torch.nn.functional.layer_norm(x, weight.shape, weight, bias)


def draws() -> list[Draw]:
    """Memories longer than, as long as, and shorter than the target, with padding."""
    draw = normal(51)

    def inputs(length: int, n_keys: int, *lengths: int) -> tuple[Any, ...]:
        attend_self, attend_cross = make_attention(draw, 5), make_attention(draw, 5)
        W = draw(5, 5)
        norms = [make_norm(draw, 5) for _ in range(3)]
        x, memory, mask = draw(2, length, 5), draw(2, n_keys, 5), real(lengths, n_keys)
        return x, memory, mask, attend_self, attend_cross, lambda y: (y @ W).relu(), norms

    return [
        Draw("a memory without padding", inputs(7, 11, 11, 11)),
        Draw("a memory with padding", inputs(7, 11, 4, 11)),
        Draw("a memory as long as the target", inputs(7, 7, 7, 3)),
        Draw("a memory that is shorter than the target", inputs(11, 3, 3, 2)),
    ]


def wrong_block(
    x: Tensor,
    memory: Tensor,
    memory_mask: Tensor,
    attend_self: Attend,
    attend_cross: Attend,
    feed_forward: Part,
    norms: list[Part],
    *,
    past: str = "causal",
    real_keys: str = "mask",
    cross: str = "memory",
    numbers: tuple[int, ...] = (0, 1, 2),
    wiring: str = "norm(x + f(x))",
    bare: tuple[str, ...] = (),
    order: str = "self cross feed",
) -> Tensor:
    """Apply the block with one thing done in another way."""
    length, n_keys = x.shape[1], memory.shape[1]
    every, start = torch.ones(length, length, dtype=torch.bool), x
    own = {
        "causal": every.tril(),
        "none": every,
        "future": every.triu(),
        "strict": every.tril(-1),
    }[past]
    triangle = torch.ones(length, n_keys, dtype=torch.bool).tril()
    others = memory_mask[:, None]
    keys = {
        "mask": others,
        "none": torch.ones_like(others),
        "inverted": ~others,
        "causal": triangle,
        "both": triangle & others,
    }[real_keys]

    def look(y: Tensor) -> Tensor:
        if cross == "exchanged":
            return attend_cross(memory, y, own)
        if cross == "itself":
            return attend_cross(y, y, own)
        if cross == "start":
            return attend_cross(start, memory, keys)
        return attend_cross(y, memory, keys)

    parts = {"self": lambda y: attend_self(y, y, own), "cross": look, "feed": feed_forward}
    for name, number in zip(order.split(), numbers, strict=True):
        norm, f = norms[number] if number >= 0 else (lambda y: y), parts[name]
        if name in bare:
            x = norm(f(x))
        elif wiring == "norm(x + f(x))":
            x = norm(x + f(x))
        elif wiring == "x + f(norm(x))":
            x = x + f(norm(x))
        elif wiring == "x + norm(f(x))":
            x = x + norm(f(x))
        else:
            x = norm(start + f(x))
    return x


MISTAKES = (
    Mistake(
        "one norm serves all sublayers",
        partial(wrong_block, numbers=(0, 0, 0)),
        "Your first sublayer is right, and the others are normalized by norms[0], too.",
        "Each sublayer has its own norm.",
    ),
    Mistake(
        "the last norm is missing",
        partial(wrong_block, numbers=(0, 1, -1)),
        "Your output is not normalized.",
        "The feed-forward network is a sublayer like the others.",
    ),
    Mistake(
        "the norms are missing",
        partial(wrong_block, numbers=(-1, -1, -1)),
        "Your sublayers are added without any norm.",
        "Each sublayer ends with its norm.",
    ),
    Mistake(
        "the norms are in another order",
        partial(wrong_block, numbers=(0, 2, 1)),
        "Your last two sublayers have each other's norm.",
        "norms[1] belongs to cross-attention.",
    ),
    Mistake(
        "the queries come from the memory",
        partial(wrong_block, cross="exchanged"),
        "Your cross-attention returns as many rows as the memory has.",
        "The tokens that are being written ask; the memory answers.",
    ),
    Mistake(
        "cross-attention does not see the memory",
        partial(wrong_block, cross="itself"),
        "Your output does not depend on the memory.",
        "The keys of cross-attention are the memory.",
    ),
    Mistake(
        "cross-attention reads the block's input",
        partial(wrong_block, cross="start"),
        "Your cross-attention has the queries of the unchanged x.",
        "Each sublayer reads what the one before has returned.",
    ),
    Mistake(
        "cross-attention is causal",
        partial(wrong_block, real_keys="both"),
        "Your first token sees only the first token of the memory.",
        "The whole source is known before anything is written.",
    ),
    Mistake(
        "cross-attention is causal, and sees padding",
        partial(wrong_block, real_keys="causal"),
        "Your first token sees only the first token of the memory, and late ones see padding.",
        "The mask of cross-attention is memory_mask.",
    ),
    Mistake(
        "the memory's mask is not used",
        partial(wrong_block, real_keys="none"),
        "Your output depends on the padding of the memory.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the memory's mask is inverted",
        partial(wrong_block, real_keys="inverted"),
        "Your cross-attention sees only padding, and NaN where there is none.",
        "True = a real token, and True = may attend.",
    ),
    Mistake(
        "self-attention is not causal",
        partial(wrong_block, past="none"),
        "Your first token changes if a later one does.",
        "Which tokens may a token see that is being written?",
    ),
    Mistake(
        "self-attention sees the future",
        partial(wrong_block, past="future"),
        "Your last token sees only itself, and the first sees all.",
        "Compare tril with triu.",
    ),
    Mistake(
        "a token does not see itself",
        partial(wrong_block, past="strict"),
        "Your first token sees nothing: a softmax over nothing is NaN.",
        "The diagonal belongs to the past.",
    ),
    Mistake(
        "the residual around the feed-forward network is missing",
        partial(wrong_block, bare=("feed",)),
        "Your last sublayer forgets its input.",
        "All three sublayers are added to their input.",
    ),
    Mistake(
        "the residual around cross-attention is missing",
        partial(wrong_block, bare=("cross",)),
        "Your second sublayer forgets its input.",
        "All three sublayers are added to their input.",
    ),
    Mistake(
        "the residual around self-attention is missing",
        partial(wrong_block, bare=("self",)),
        "Your first sublayer forgets its input.",
        "All three sublayers are added to their input.",
    ),
    Mistake(
        "there is no residual",
        partial(wrong_block, bare=("self", "cross", "feed")),
        "Your sublayers forget their inputs.",
        "All three sublayers are added to their input.",
    ),
    Mistake(
        "the block is pre-norm",
        partial(wrong_block, wiring="x + f(norm(x))"),
        "Your norms are on the way into the sublayers.",
        "Here the norm comes after the addition.",
    ),
    Mistake(
        "the norm leaves x out",
        partial(wrong_block, wiring="x + norm(f(x))"),
        "Your norms see f(x) alone.",
        "Here the norm comes after the addition.",
    ),
    Mistake(
        "the residual is the block's input",
        partial(wrong_block, wiring="norm(start + f(x))"),
        "Your later sublayers are added to the unchanged x.",
        "Each sublayer is added to its own input.",
    ),
    Mistake(
        "cross-attention comes first",
        partial(wrong_block, order="cross self feed"),
        "Your tokens look at the memory before they look at each other.",
        "Read the order again.",
    ),
    Mistake(
        "the feed-forward network comes before cross-attention",
        partial(wrong_block, order="self feed cross"),
        "Your output is that of cross-attention.",
        "Read the order again.",
    ),
    Mistake(
        "cross-attention is left out",
        partial(wrong_block, order="self feed", numbers=(0, 2)),
        "Your output does not depend on the memory.",
        "A decoder block has three sublayers.",
    ),
)


EXERCISE = Exercise(
    number="5.1",
    title="A decoder block from its parts",
    task=TASK.strip(),
    solve=decoder_block,
    draws=draws,
    mistakes=MISTAKES,
    hint="memory_mask is (B, K); with an axis in the middle it broadcasts to (B, Q, K).",
    remark="`qkv.blocks.block.Block` is the same three lines, with caches and pre-norm.",
)

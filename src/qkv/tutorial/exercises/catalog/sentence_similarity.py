"""Exercise 8.3: mean pooling and cosine similarity."""

from functools import partial

import torch
from torch import Tensor

from qkv.models.pooling import mean_token
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal, real

TASK = """
Compare sentences by their encoders' states. The vector of a sentence is the mean of the
states of its real tokens. The similarity of two sentences is the cosine of the angle between
their vectors. Compare each sentence of the first batch with each of the second.

first: (A, L, D)    first_mask: (A, L), True = a real token; each row has at least one
second: (B, M, D)   second_mask: (B, M)

Return the similarities (A, B).
"""


def similarities(first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
    """Return the cosines."""

    def vectors(states: Tensor, mask: Tensor) -> Tensor:
        total = (states * mask[..., None]).sum(1)
        mean = total / mask.sum(1, keepdim=True)
        return mean / mean.norm(dim=-1, keepdim=True)

    return vectors(first, first_mask) @ vectors(second, second_mask).T


def reference(first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
    """Compute the cosines with the library's pooling."""
    left, right = mean_token(first, first_mask), mean_token(second, second_mask)
    return torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=-1)


def draws() -> list[Draw]:
    """With and without padding, whose states are not zero."""
    draw = normal(83)

    def inputs(
        a: tuple[int, ...], longest: int, b: tuple[int, ...], other: int
    ) -> tuple[Tensor, ...]:
        first, second = draw(len(a), longest, 5), draw(len(b), other, 5)
        return first, real(a, longest), second, real(b, other)

    left = inputs((7, 7, 7), 7, (11, 11), 11)
    turned = inputs((2, 6), 7, (5, 3, 11), 11)
    turned = tuple(x.flip(1) if x.dtype == torch.bool else x for x in turned)
    return [
        Draw("sentences without padding", left),
        Draw("sentences with padding", inputs((2, 7, 5), 7, (11, 4), 11)),
        Draw("sentences padded on the left", turned),
    ]


def wrong_similarities(
    first: Tensor,
    first_mask: Tensor,
    second: Tensor,
    second_mask: Tensor,
    *,
    pool: str = "mean",
    unit: str = "both",
    measure: str = "cosine",
) -> Tensor:
    """Compare with one step done in another way."""

    def pooled(states: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(len(states))
        return {
            "mean": lambda: (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            "all": lambda: states.mean(1),
            "padding": lambda: (states * ~mask[..., None]).sum(1) / (~mask).sum(1, keepdim=True),
            "first": lambda: states[:, 0],
            "first real": lambda: states[rows, mask.long().argmax(1)],
            "last": lambda: states[:, -1],
            "max": lambda: states.masked_fill(~mask[..., None], float("-inf")).amax(1),
            "max of all": lambda: states.amax(1),
            "unit tokens": lambda: (
                (states / states.norm(dim=-1, keepdim=True) * mask[..., None]).sum(1)
                / mask.sum(1, keepdim=True)
            ),
            "padded length": lambda: (states * mask[..., None]).mean(1),
            "sum": lambda: (states * mask[..., None]).sum(1),
        }[pool]()

    a, b = pooled(first, first_mask), pooled(second, second_mask)
    if unit in ("both", "first"):
        a = a / a.norm(dim=-1, keepdim=True)
    if unit in ("both", "second"):
        b = b / b.norm(dim=-1, keepdim=True)
    if unit == "squares":
        a, b = a / a.square().sum(-1, keepdim=True), b / b.square().sum(-1, keepdim=True)
    elif unit == "columns":
        a, b = a / a.norm(dim=0), b / b.norm(dim=0)
    elif unit == "whole":
        a, b = a / a.norm(), b / b.norm()
    elif unit == "sums":
        a, b = a / a.abs().sum(-1, keepdim=True), b / b.abs().sum(-1, keepdim=True)
    elif unit == "width":
        a, b = a / a.shape[1] ** 0.25, b / b.shape[1] ** 0.25
    products = a @ b.T
    return {
        "cosine": lambda: products,
        "turned": lambda: products.T,
        "distance": lambda: (a[:, None] - b[None]).norm(dim=-1),
        "1 - cosine": lambda: 1 - products,
        "angle": lambda: products.clamp(-1, 1).acos(),
        "absolute": lambda: products.abs(),
        "softmax": lambda: products.softmax(-1),
    }[measure]()


MISTAKES = (
    Mistake(
        "padding is in the mean",
        partial(wrong_similarities, pool="all"),
        "Your numbers are right without padding.",
        "Padding has states, too, and they are not zero.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_similarities, pool="padding"),
        "Your vectors are means of the padding, and NaN where there is none.",
        "True = a real token.",
    ),
    Mistake(
        "the first state is taken",
        partial(wrong_similarities, pool="first"),
        "Your vectors are the states of the first position.",
        "The vector of a sentence is a mean.",
    ),
    Mistake(
        "the first real state is taken",
        partial(wrong_similarities, pool="first real"),
        "Your vectors are the states of the first real token.",
        "The vector of a sentence is a mean.",
    ),
    Mistake(
        "the last state is taken",
        partial(wrong_similarities, pool="last"),
        "Your vectors are the states of the last position.",
        "The vector of a sentence is a mean.",
    ),
    Mistake(
        "the maximum is taken",
        partial(wrong_similarities, pool="max"),
        "Your vectors have the largest number of each coordinate.",
        "The vector of a sentence is a mean.",
    ),
    Mistake(
        "the maximum is taken, with padding",
        partial(wrong_similarities, pool="max of all"),
        "Your vectors have the largest number of each coordinate, also of padding.",
        "The vector of a sentence is a mean, of its real tokens.",
    ),
    Mistake(
        "the tokens are normalized before the mean",
        partial(wrong_similarities, pool="unit tokens"),
        "Your numbers are cosines, but of means of unit vectors.",
        "First the mean, then the length.",
    ),
    Mistake(
        "the tokens are normalized, the means are not",
        partial(wrong_similarities, pool="unit tokens", unit="none"),
        "Your numbers are too close to 0: a mean of unit vectors is shorter than 1.",
        "First the mean, then the length.",
    ),
    Mistake(
        "nothing is normalized",
        partial(wrong_similarities, unit="none"),
        "Your numbers can be above 1: they are inner products of the means.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "nothing is normalized, and padding counts in the mean",
        partial(wrong_similarities, pool="padded length", unit="none"),
        "Your numbers are inner products of sums divided by the padded length.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "nothing is normalized, and the states are added",
        partial(wrong_similarities, pool="sum", unit="none"),
        "Your numbers are inner products of sums.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "only the first vectors are normalized",
        partial(wrong_similarities, unit="first"),
        "Your columns are too large or too small by the length of the second vectors.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "only the second vectors are normalized",
        partial(wrong_similarities, unit="second"),
        "Your rows are too large or too small by the length of the first vectors.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "the vectors are divided by their squared lengths",
        partial(wrong_similarities, unit="squares"),
        "Your vectors do not have the length 1: a root is missing.",
        "A length is the root of the sum of squares.",
    ),
    Mistake(
        "the vectors are divided by their sums",
        partial(wrong_similarities, unit="sums"),
        "Your vectors have absolute values with a sum of 1, not a length of 1.",
        "A length is the root of the sum of squares.",
    ),
    Mistake(
        "the columns are normalized",
        partial(wrong_similarities, unit="columns"),
        "Your coordinates have the length 1 over all sentences.",
        "A sentence's vector is the last axis.",
    ),
    Mistake(
        "all vectors are divided by one length",
        partial(wrong_similarities, unit="whole"),
        "Your vectors have the length 1 together.",
        "Each vector has its own length: norm needs an axis.",
    ),
    Mistake(
        "the products are divided by the root of the width",
        partial(wrong_similarities, unit="width"),
        "Your numbers are scaled dot products.",
        "A cosine is divided by both lengths.",
    ),
    Mistake(
        "the result is turned",
        partial(wrong_similarities, measure="turned"),
        "Your result has a row for each sentence of the second batch.",
        "The first batch is in the rows.",
    ),
    Mistake(
        "the distance is returned",
        partial(wrong_similarities, measure="distance"),
        "Your numbers are 0 for equal sentences: they are distances of unit vectors.",
        "The cosine of equal sentences is 1.",
    ),
    Mistake(
        "1 minus the cosine is returned",
        partial(wrong_similarities, measure="1 - cosine"),
        "Your numbers are 0 for equal sentences.",
        "The cosine of equal sentences is 1.",
    ),
    Mistake(
        "the angle is returned",
        partial(wrong_similarities, measure="angle"),
        "Your numbers are angles, from 0 to 3.14.",
        "Return its cosine.",
    ),
    Mistake(
        "the sign is lost",
        partial(wrong_similarities, measure="absolute"),
        "None of your numbers is negative.",
        "Opposite sentences have a cosine of -1.",
    ),
    Mistake(
        "a softmax was applied",
        partial(wrong_similarities, measure="softmax"),
        "Your rows sum to 1.",
        "Return the cosines themselves.",
    ),
)


EXERCISE = Exercise(
    number="8.3",
    title="Mean pooling and cosine similarity",
    task=TASK.strip(),
    solve=similarities,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="Multiply the states by the mask before summing, and divide by the number of real tokens.",
    remark="A cosine needs the lengths of both vectors; with unit vectors it is an inner product.",
)

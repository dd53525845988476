"""Exercise 3.3: which head matters."""

from functools import partial

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal, whole

TASK = """
A classifier concatenates the outputs of its H heads for each example, in order, and
multiplies by W: scores = [head 0, head 1, ...] @ W. It predicts the class with the largest
score. Switch the heads off one at a time, by zeros in place of that head's output (all
others stay on), and measure how much accuracy is lost: the accuracy with all heads minus the
accuracy without that head. The value is negative where the model is better without it.

heads: (N, H, D), N examples   W: (H * D, C)   labels: (N,), from 0 to C - 1

Return the losses of accuracy (H,), as fractions (0.25 is a quarter of all examples).
Do not change the inputs.
"""


def accuracy_lost(heads: Tensor, W: Tensor, labels: Tensor) -> Tensor:
    """Return what each head is worth."""

    def accuracy(outputs: Tensor) -> Tensor:
        return ((outputs.flatten(1) @ W).argmax(1) == labels).double().mean()

    whole_accuracy = accuracy(heads)
    losses = []
    for head in range(heads.shape[1]):
        without = heads.clone()
        without[:, head] = 0
        losses.append(whole_accuracy - accuracy(without))
    return torch.stack(losses)


def draws() -> list[Draw]:
    """Labels that the model often predicts, so that heads have something to lose."""
    draw, choose = normal(33), whole(33)

    def inputs(n: int, n_heads: int, d: int, n_classes: int) -> tuple[Tensor, ...]:
        heads, W = draw(n, n_heads, d), draw(n_heads * d, n_classes)
        heads = heads * torch.arange(1, n_heads + 1)[:, None]  # some heads matter more
        labels = (heads.flatten(1) @ W).argmax(1)
        noise = choose(4, n) == 0
        return heads, W, torch.where(noise, choose(n_classes, n), labels)

    heads, W, _ = inputs(101, 3, 5, 7)
    disturbed = heads * torch.tensor([1, 0, 1])[:, None]
    labels = (disturbed.flatten(1) @ W).argmax(1)
    return [
        Draw("three heads", inputs(101, 3, 5, 7)),
        Draw("seven heads", inputs(211, 7, 2, 3)),
        Draw("as many heads as their width", inputs(103, 5, 5, 3)),
        Draw("a model that is better without its second head", (heads, W, labels)),
    ]


def wrong_losses(
    heads: Tensor,
    W: Tensor,
    labels: Tensor,
    *,
    off: str = "this head",
    measure: str = "with - without",
) -> Tensor:
    """Measure what heads are worth with one step done in another way."""
    n, n_heads, _ = heads.shape

    def predictions(outputs: Tensor) -> Tensor:
        return (outputs.flatten(1) @ W).argmax(1)

    def accuracy(outputs: Tensor) -> Tensor:
        return (predictions(outputs) == labels).double().mean()

    whole_accuracy, losses, left = accuracy(heads), [], heads.clone()
    for head in range(n_heads):
        without = heads.clone()
        if off == "this head":
            without[:, head] = 0
        elif off == "all others":
            without = torch.zeros_like(heads)
            without[:, head] = heads[:, head]
        elif off == "one after another":
            left[:, head] = 0
            without = left.clone()
        elif off == "columns":
            flat = without.flatten(1)
            flat[:, head::n_heads] = 0
            without = flat.view_as(heads)
        elif off == "example":
            without[head] = 0
        elif off == "coordinate":
            without[:, :, head] = 0
        elif off == "mean":
            without[:, head] = heads[:, head].mean(0)
        now = accuracy(without)
        changed = (predictions(without) != predictions(heads)).double().mean()
        losses.append(
            {
                "with - without": whole_accuracy - now,
                "without - with": now - whole_accuracy,
                "without": now,
                "counts": (whole_accuracy - now) * n,
                "percent": (whole_accuracy - now) * 100,
                "relative": (whole_accuracy - now) / whole_accuracy,
                "absolute": (whole_accuracy - now).abs(),
                "clamped": (whole_accuracy - now).clamp(min=0),
                "changed": changed,
                "error rate": 1 - now,
            }[measure]
        )
    return torch.stack(losses)


MISTAKES = (
    Mistake(
        "all other heads are switched off",
        partial(wrong_losses, off="all others"),
        "Your losses are those of a model with one head left.",
        "Only one head is zero at a time; all others stay on.",
    ),
    Mistake(
        "heads stay off",
        partial(wrong_losses, off="one after another"),
        "Your first loss is right; in each later one, the heads before are off, too.",
        "Begin each time with all heads on.",
    ),
    Mistake(
        "every H-th column is switched off",
        partial(wrong_losses, off="columns"),
        "Your zeros are spread over all heads.",
        "A head's numbers stand side by side.",
    ),
    Mistake(
        "an example is switched off instead of a head",
        partial(wrong_losses, off="example"),
        "Your losses are at most 1 / N: only one example changes.",
        "The first axis of heads counts examples.",
    ),
    Mistake(
        "a coordinate is switched off instead of a head",
        partial(wrong_losses, off="coordinate"),
        "Your zeros are in one coordinate of every head.",
        "The second axis of heads counts heads.",
    ),
    Mistake(
        "the head's output is replaced by its mean",
        partial(wrong_losses, off="mean"),
        "Your losses are those of a head that says the same about each example.",
        "The exercise asks for zeros.",
    ),
    Mistake(
        "the difference is the other way round",
        partial(wrong_losses, measure="without - with"),
        "Your losses have the wrong sign.",
        "A head that matters has a positive loss.",
    ),
    Mistake(
        "the accuracies are returned",
        partial(wrong_losses, measure="without"),
        "Your numbers are the accuracies without each head.",
        "Subtract them from the accuracy with all heads.",
    ),
    Mistake(
        "the error rates are returned",
        partial(wrong_losses, measure="error rate"),
        "Your numbers are 1 minus the accuracies without each head.",
        "Compare with the accuracy with all heads, which is not 1.",
    ),
    Mistake(
        "examples are counted",
        partial(wrong_losses, measure="counts"),
        "Your numbers are whole: they count examples.",
        "Divide by the number of examples.",
    ),
    Mistake(
        "the losses are in percent",
        partial(wrong_losses, measure="percent"),
        "Your numbers are too large by 100.",
        "A quarter of all examples is 0.25.",
    ),
    Mistake(
        "the losses are relative",
        partial(wrong_losses, measure="relative"),
        "Your losses are divided by the accuracy with all heads.",
        "A loss is a plain difference of two accuracies.",
    ),
    Mistake(
        "the sign is lost",
        partial(wrong_losses, measure="absolute"),
        "None of your losses is negative.",
        "A model may be better without a head; then its loss is negative.",
    ),
    Mistake(
        "negative losses are set to 0",
        partial(wrong_losses, measure="clamped"),
        "None of your losses is negative.",
        "A model may be better without a head; then its loss is negative.",
    ),
    Mistake(
        "changed predictions are counted",
        partial(wrong_losses, measure="changed"),
        "Your numbers are the fractions of predictions that changed.",
        "A wrong prediction that becomes another wrong one loses nothing.",
    ),
)


EXERCISE = Exercise(
    number="3.3",
    title="Which head matters",
    task=TASK.strip(),
    solve=accuracy_lost,
    draws=draws,
    mistakes=MISTAKES,
    hint="Change a copy (clone), so that each head is switched off in the full model.",
    remark=(
        "`qkv.attention.heads.disable_heads` does this to a layer of a real model, by a hook, and "
        "puts everything back at the end of its `with`."
    ),
)

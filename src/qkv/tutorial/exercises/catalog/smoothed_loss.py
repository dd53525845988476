"""Exercise 7.2: cross-entropy with padding and label smoothing."""

import math
from functools import partial

import torch
from torch import Tensor

from qkv.training.losses import linear_cross_entropy
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal, real, whole

TASK = """
Compute the mean cross-entropy, in nats, over the real target tokens of a batch: padding
neither adds to the sum nor counts in the mean. With label smoothing s, the weight on the
target is 1 - s plus its share of s, which is spread evenly over all V tokens of the
vocabulary, the target included. The logits are not normalized.

logits: (B, T, V)   targets: (B, T), ids   mask: (B, T), True = a real token   smoothing: s

Return the loss, a tensor without axes.
"""


def loss(logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Return the mean over the real tokens."""
    logs = logits.log_softmax(-1)
    of_target = -logs.gather(-1, targets[..., None])[..., 0]  # (B, T)
    of_all = -logs.mean(-1)
    each = (1 - smoothing) * of_target + smoothing * of_all
    return each[mask].mean()


def reference(logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Compute the loss with the library, whose projection is here the identity."""
    rows, identity = logits[mask], torch.eye(logits.shape[-1], dtype=logits.dtype)
    total = linear_cross_entropy(rows, identity, None, targets[mask], smoothing=smoothing)
    return total / len(rows)


def draws() -> list[Draw]:
    """With and without padding and smoothing."""
    draw, choose = normal(72), whole(72)

    def inputs(length: int, lengths: tuple[int, ...], smoothing: float) -> tuple[object, ...]:
        batch = len(lengths)
        return draw(batch, length, 5), choose(5, batch, length), real(lengths, length), smoothing

    return [
        Draw("a batch without padding", inputs(7, (7, 7), 0.0)),
        Draw("a batch with padding", inputs(7, (7, 2, 4), 0.0)),
        Draw("label smoothing of 0.1", inputs(11, (11, 11), 0.1)),
        Draw("padding and label smoothing", inputs(11, (3, 11, 7), 0.3)),
    ]


def wrong_loss(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    smoothing: float,
    *,
    probabilities: str = "log_softmax",
    share: str = "all tokens",
    mean: str = "real tokens",
    unit: float = 1.0,
) -> Tensor:
    """Compute the loss with one step done in another way."""
    vocab, s = logits.shape[-1], smoothing
    logs = {
        "log_softmax": lambda: logits.log_softmax(-1),
        "softmax twice": lambda: logits.softmax(-1).log_softmax(-1),
        "none": lambda: logits,
        "softmax": lambda: logits.softmax(-1),
        "over time": lambda: logits.log_softmax(1),
        "reshaped": lambda: logits.reshape(len(logits), vocab, -1).mT.log_softmax(-1),
    }[probabilities]()
    of_target = -logs.gather(-1, targets[..., None])[..., 0]
    of_all = -logs.mean(-1)
    each = {
        "all tokens": lambda: (1 - s) * of_target + s * of_all,
        "others": lambda: (1 - s) * of_target + s * (of_all * vocab - of_target) / (vocab - 1),
        "others by V": lambda: (1 - s) * of_target + s * (of_all - of_target / vocab),
        "sum": lambda: (1 - s) * of_target + s * of_all * vocab,
        "none": lambda: of_target,
        "target alone": lambda: (1 - s) * of_target,
        "exchanged": lambda: s * of_target + (1 - s) * of_all,
        "added": lambda: of_target + s * of_all,
    }[share]()
    kept = each * mask
    loss = {
        "real tokens": lambda: kept.sum() / mask.sum(),
        "sum": lambda: kept.sum(),
        "all places": lambda: kept.mean(),
        "with padding": lambda: each.mean(),
        "padding": lambda: (each * ~mask).sum() / (~mask).sum().clamp(min=1),
        "padding, NaN": lambda: each[~mask].mean(),
        "rows": lambda: (kept.sum(1) / mask.sum(1)).mean(),
        "batch": lambda: kept.sum() / len(mask),
        "time": lambda: kept.sum() / mask.shape[1],
        "zero targets": lambda: (
            -(1 - s) * logs.gather(-1, (targets * mask)[..., None])[..., 0] + s * of_all
        ).mean(),
    }[mean]()
    return loss * unit


MISTAKES = (
    Mistake(
        "the mean counts the padding",
        partial(wrong_loss, mean="all places"),
        "Your loss is too small with padding: the sum is right, and divided by B * T.",
        "Divide by the number of real tokens.",
    ),
    Mistake(
        "the padding is in the loss",
        partial(wrong_loss, mean="with padding"),
        "Your loss is right without padding: the mask is not used.",
        "Only real tokens are added and counted.",
    ),
    Mistake(
        "padding counts as token 0",
        partial(wrong_loss, mean="zero targets"),
        "Your loss is right without padding: padded places have the target 0 instead of none.",
        "Only real tokens are added and counted.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_loss, mean="padding, NaN"),
        "Your loss is that of the padding, and NaN where there is none.",
        "True = a real token.",
    ),
    Mistake(
        "the mask is inverted",
        partial(wrong_loss, mean="padding"),
        "Your loss is that of the padding, and 0 where there is none.",
        "True = a real token.",
    ),
    Mistake(
        "the losses are added, not averaged",
        partial(wrong_loss, mean="sum"),
        "Your loss grows with the number of tokens.",
        "Divide by the number of real tokens.",
    ),
    Mistake(
        "the rows' means are averaged",
        partial(wrong_loss, mean="rows"),
        "In your loss a token of a short row counts more than one of a long row.",
        "All real tokens count the same.",
    ),
    Mistake(
        "the sum is divided by the number of rows",
        partial(wrong_loss, mean="batch"),
        "Your loss is that of a whole text.",
        "Divide by the number of real tokens.",
    ),
    Mistake(
        "the sum is divided by the length",
        partial(wrong_loss, mean="time"),
        "Your loss grows with the number of rows.",
        "Divide by the number of real tokens.",
    ),
    Mistake(
        "a softmax before the cross-entropy",
        partial(wrong_loss, probabilities="softmax twice"),
        "Your loss is close to log(V) whatever the logits: probabilities were taken for logits.",
        "cross_entropy and log_softmax take logits.",
    ),
    Mistake(
        "the logits are not normalized",
        partial(wrong_loss, probabilities="none"),
        "Your loss can be negative: logits are no log-probabilities.",
        "What turns logits into log-probabilities?",
    ),
    Mistake(
        "the logarithm is missing",
        partial(wrong_loss, probabilities="softmax"),
        "Your loss lies between -1 and 0: it is made of probabilities.",
        "Cross-entropy is -log p.",
    ),
    Mistake(
        "the softmax runs over time",
        partial(wrong_loss, probabilities="over time"),
        "Your probabilities sum to 1 over the positions.",
        "The vocabulary is the last axis.",
    ),
    Mistake(
        "the logits are reshaped to (B, V, T)",
        partial(wrong_loss, probabilities="reshaped"),
        "Your logits are mixed between positions: a reshape is no transpose.",
        "cross_entropy wants the vocabulary in the second axis: move it there, or flatten B and T.",
    ),
    Mistake(
        "smoothing leaves out the target",
        partial(wrong_loss, share="others"),
        "Your loss with smoothing is too large: s is spread over V - 1 tokens.",
        "The target gets its share of s, too.",
    ),
    Mistake(
        "the target has no share of the smoothing",
        partial(wrong_loss, share="others by V"),
        "Your weights sum to 1 - s / V.",
        "The target gets its share of s, too.",
    ),
    Mistake(
        "the smoothing is not divided by V",
        partial(wrong_loss, share="sum"),
        "Your loss with smoothing is far too large: each token of the vocabulary weighs s.",
        "s is spread: each token gets s / V.",
    ),
    Mistake(
        "there is no smoothing",
        partial(wrong_loss, share="none"),
        "Your loss is right with smoothing = 0.",
        "Which argument have you not used?",
    ),
    Mistake(
        "only the target is weighted",
        partial(wrong_loss, share="target alone"),
        "Your loss with smoothing is too small: the weight s is lost.",
        "s is spread over the vocabulary.",
    ),
    Mistake(
        "s and 1 - s are exchanged",
        partial(wrong_loss, share="exchanged"),
        "Your loss without smoothing does not depend on the targets.",
        "Without smoothing all the weight is on the target.",
    ),
    Mistake(
        "the target keeps all its weight",
        partial(wrong_loss, share="added"),
        "Your weights sum to 1 + s.",
        "What is spread is taken from the target.",
    ),
    Mistake(
        "the loss is in bits",
        partial(wrong_loss, unit=1 / math.log(2)),
        "Your loss is too large by 1 / ln 2.",
        "A nat is the unit of the natural logarithm.",
    ),
    Mistake(
        "the sign is wrong",
        partial(wrong_loss, unit=-1.0),
        "Your loss is negative.",
        "Cross-entropy is -log p.",
    ),
)


EXERCISE = Exercise(
    number="7.2",
    title="Cross-entropy with padding and label smoothing",
    task=TASK.strip(),
    solve=loss,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="logits[mask] keeps the rows of the real tokens, (real tokens, V); so does targets[mask].",
    remark=(
        "torch.nn.functional.cross_entropy(logits[mask], targets[mask], label_smoothing=s) is the "
        "same number; the library fuses it with the output layer."
    ),
)

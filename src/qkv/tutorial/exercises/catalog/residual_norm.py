"""Exercise 4.3: a sublayer with layer norm and residual."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.blocks.norms import layer_norm
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Apply one sublayer f with layer norm and a residual connection. If norm_first is False, the
result is norm(x + f(x)), as in the paper of 2017; if it is True, x + f(norm(x)), as in
GPT-2. Write the norm yourself: from each token's vector subtract its mean, divide by
sqrt(variance + eps), where the variance is the mean of the squares (divided by D, not by
D - 1), multiply by weight and add bias.

x: (B, L, D)   f: a function of (B, L, D) tensors   weight, bias: (D,)   eps: a float

Return a (B, L, D) tensor.
"""


def sublayer(
    x: Tensor,
    f: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    norm_first: bool,
) -> Tensor:
    """Return the sublayer's output."""

    def norm(y: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + eps) * weight + bias

    return x + f(norm(x)) if norm_first else norm(x + f(x))


def reference(
    x: Tensor,
    f: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    norm_first: bool,
) -> Tensor:
    """Compute the output with the library's norm."""
    if norm_first:
        return x + f(layer_norm(x, weight, bias, eps))
    return layer_norm(x + f(x), weight, bias, eps)


def draws() -> list[Draw]:
    """Both orders; a large eps shows where it stands."""
    draw = normal(43)

    def inputs(eps: float, norm_first: bool) -> tuple[Any, ...]:
        x, weight, bias, matrix = draw(2, 7, 5), draw(5), draw(5), draw(5, 5)
        return x, lambda y: torch.tanh(y @ matrix), weight, bias, eps, norm_first

    return [
        Draw("post-norm", inputs(1e-5, False)),
        Draw("pre-norm", inputs(1e-5, True)),
        Draw("post-norm with eps = 0.5", inputs(0.5, False)),
        Draw("pre-norm with eps = 0.5", inputs(0.5, True)),
    ]


def wrong_sublayer(
    x: Tensor,
    f: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    norm_first: bool,
    *,
    root: str = "inside",
    axis: int | tuple[int, ...] = -1,
    centred: bool = True,
    affine: str = "weight and bias",
    post: str = "norm(x + f(x))",
    pre: str = "x + f(norm(x))",
) -> Tensor:
    """Apply the sublayer with one step done in another way."""

    def norm(y: Tensor) -> Tensor:
        away = y - y.mean(axis, keepdim=True) if centred else y
        variance = away.square().mean(axis, keepdim=True)
        more = (y - y.mean(axis, keepdim=True)).square().mean(axis, keepdim=True)
        n = y.shape[-1]
        normed = {
            "inside": lambda: away / (variance + eps).sqrt(),
            "outside": lambda: away / (variance.sqrt() + eps),
            "n - 1": lambda: away / (variance * n / (n - 1) + eps).sqrt(),
            "n - 1, outside": lambda: away / ((variance * n / (n - 1)).sqrt() + eps),
            "no eps": lambda: away / variance.sqrt(),
            "no root": lambda: away / (variance + eps),
            "not subtracted": lambda: y / (more + eps).sqrt(),
        }[root]()
        return {
            "weight and bias": lambda: normed * weight + bias,
            "weight": lambda: normed * weight,
            "bias": lambda: normed + bias,
            "neither": lambda: normed,
            "bias first": lambda: (normed + bias) * weight,
        }[affine]()

    forms = {
        "norm(x + f(x))": lambda: norm(x + f(x)),
        "x + f(norm(x))": lambda: x + f(norm(x)),
        "x + norm(f(x))": lambda: x + norm(f(x)),
        "norm(x) + f(norm(x))": lambda: norm(x) + f(norm(x)),
        "norm(x) + f(x)": lambda: norm(x) + f(x),
        "f(norm(x))": lambda: f(norm(x)),
        "norm(f(x))": lambda: norm(f(x)),
        "norm(x + f(norm(x)))": lambda: norm(x + f(norm(x))),
        "x + f(x)": lambda: x + f(x),
    }
    return forms[pre]() if norm_first else forms[post]()


MISTAKES = (
    Mistake(
        "the variance is divided by D - 1",
        partial(wrong_sublayer, root="n - 1"),
        "Your normalized numbers are too small by sqrt((D - 1) / D).",
        "torch.var divides by D - 1 unless correction=0.",
    ),
    Mistake(
        "eps is outside the root",
        partial(wrong_sublayer, root="outside"),
        "Your numbers are nearly right with eps = 1e-5 and clearly wrong with eps = 0.5.",
        "eps is added to the variance, before the root.",
    ),
    Mistake(
        "the variance is divided by D - 1, and eps is outside the root",
        partial(wrong_sublayer, root="n - 1, outside"),
        "Your numbers are those of x.std() + eps.",
        "torch.std divides by D - 1, and eps belongs to the variance.",
    ),
    Mistake(
        "eps is missing",
        partial(wrong_sublayer, root="no eps"),
        "Your numbers are nearly right with eps = 1e-5 and clearly wrong with eps = 0.5.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the root is missing",
        partial(wrong_sublayer, root="no root"),
        "Your normalized vectors do not have a variance of 1.",
        "Divide by the standard deviation.",
    ),
    Mistake(
        "the mean is not subtracted",
        partial(wrong_sublayer, centred=False),
        "Your norm is an RMS norm: it divides by the root of the mean square.",
        "Subtract the mean first, then measure the spread around it.",
    ),
    Mistake(
        "the mean is subtracted in the variance only",
        partial(wrong_sublayer, root="not subtracted"),
        "Your normalized vectors do not have a mean of 0.",
        "The numerator is x minus its mean.",
    ),
    Mistake(
        "the norm runs over the tokens",
        partial(wrong_sublayer, axis=1),
        "Each of your columns has a mean of 0 over the tokens: tokens see each other.",
        "A layer norm works on one token's vector, the last axis.",
    ),
    Mistake(
        "the norm runs over tokens and width",
        partial(wrong_sublayer, axis=(1, 2)),
        "Your mean and variance are those of a whole text.",
        "A layer norm works on one token's vector, the last axis.",
    ),
    Mistake(
        "the norm runs over the batch",
        partial(wrong_sublayer, axis=0),
        "Your mean and variance are those over the rows of the batch.",
        "A layer norm works on one token's vector, the last axis.",
    ),
    Mistake(
        "the norm runs over everything",
        partial(wrong_sublayer, axis=(0, 1, 2)),
        "Your mean and variance are those of the whole batch.",
        "A layer norm works on one token's vector, the last axis.",
    ),
    Mistake(
        "weight and bias are not used",
        partial(wrong_sublayer, affine="neither"),
        "Your normalized vectors have a mean of 0 and a variance of 1.",
        "The norm ends with a weight and a bias.",
    ),
    Mistake(
        "the bias is not used",
        partial(wrong_sublayer, affine="weight"),
        "Your numbers are off by the bias.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the weight is not used",
        partial(wrong_sublayer, affine="bias"),
        "Your numbers lack the factor of each coordinate.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the bias is multiplied by the weight",
        partial(wrong_sublayer, affine="bias first"),
        "Your bias is added before the weight multiplies.",
        "First multiply, then add.",
    ),
    Mistake(
        "post-norm leaves x out of the norm",
        partial(wrong_sublayer, post="x + norm(f(x))"),
        "Your post-norm result is x + norm(f(x)).",
        "In the paper, the norm comes after the addition.",
    ),
    Mistake(
        "both orders leave x out of the norm",
        partial(wrong_sublayer, post="x + norm(f(x))", pre="x + norm(f(x))"),
        "Your results are x + norm(f(x)).",
        "Read both formulas again: what is the argument of the norm?",
    ),
    Mistake(
        "the two orders are exchanged",
        partial(wrong_sublayer, post="x + f(norm(x))", pre="norm(x + f(x))"),
        "Your result with norm_first=True is that of False, and the other way round.",
        "norm_first says that the norm comes before f.",
    ),
    Mistake(
        "norm_first is ignored",
        partial(wrong_sublayer, pre="norm(x + f(x))"),
        "Your result is always that of post-norm.",
        "There are two cases.",
    ),
    Mistake(
        "norm_first is ignored",
        partial(wrong_sublayer, post="x + f(norm(x))"),
        "Your result is always that of pre-norm.",
        "There are two cases.",
    ),
    Mistake(
        "pre-norm adds the normalized x",
        partial(wrong_sublayer, pre="norm(x) + f(norm(x))"),
        "Your pre-norm result is norm(x) + f(norm(x)).",
        "x itself goes around the sublayer.",
    ),
    Mistake(
        "pre-norm adds the normalized x to f(x)",
        partial(wrong_sublayer, pre="norm(x) + f(x)"),
        "Your pre-norm result is norm(x) + f(x).",
        "The norm is on the way into f, not around it.",
    ),
    Mistake(
        "pre-norm has the norm behind f",
        partial(wrong_sublayer, pre="x + norm(f(x))"),
        "Your pre-norm result is x + norm(f(x)).",
        "Pre means before f.",
    ),
    Mistake(
        "pre-norm has a second norm",
        partial(wrong_sublayer, pre="norm(x + f(norm(x)))"),
        "Your pre-norm result is normalized once more at the end.",
        "The last norm of a pre-norm model comes after all blocks.",
    ),
    Mistake(
        "the residual is missing",
        partial(wrong_sublayer, post="norm(f(x))", pre="f(norm(x))"),
        "Your result depends on x through f alone.",
        "x is added to what f returns.",
    ),
    Mistake(
        "pre-norm has no residual",
        partial(wrong_sublayer, pre="f(norm(x))"),
        "Your pre-norm result is f(norm(x)).",
        "x is added to what f returns.",
    ),
    Mistake(
        "post-norm has no residual",
        partial(wrong_sublayer, post="norm(f(x))"),
        "Your post-norm result is norm(f(x)).",
        "x is added to what f returns.",
    ),
)


EXERCISE = Exercise(
    number="4.3",
    title="A sublayer with layer norm and residual",
    task=TASK.strip(),
    solve=sublayer,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="Write norm(y) as an inner function first; then each order is one line.",
    remark=(
        "In the pre-norm order nothing normalizes x itself on its way up, which is why a pre-norm "
        "stack needs one more norm at its end."
    ),
)

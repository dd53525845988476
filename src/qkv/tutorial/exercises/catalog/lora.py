"""Exercise 9.2: a linear layer with LoRA."""

from functools import partial

from torch import Tensor, nn

from qkv.models.lora_layers import LoRAConfig, LoRALinear
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Apply a linear layer x W^T + b with a low-rank update: to its output, (alpha / r) B A x is
added, where r is the rank, the number of rows of A. Also return the merged weight: the
matrix of one linear layer (with the same bias) that gives the same output.

x: (N, Din)   W: (Dout, Din)   b: (Dout,)   A: (r, Din)   B: (Dout, r)   alpha: a float

Return the output (N, Dout) and the merged weight (Dout, Din), in this order.
"""


def lora(
    x: Tensor, W: Tensor, b: Tensor, A: Tensor, B: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the output and the merged weight."""
    scale = alpha / len(A)
    output = x @ W.T + b + scale * (x @ A.T @ B.T)
    return output, W + scale * (B @ A)


def reference(
    x: Tensor, W: Tensor, b: Tensor, A: Tensor, B: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Compute both with the library's layer."""
    base = nn.Linear(W.shape[1], W.shape[0]).to(W.dtype).requires_grad_(False)
    layer = LoRALinear(base, LoRAConfig(rank=len(A), alpha=alpha)).requires_grad_(False)
    for parameter, value in ((base.weight, W), (base.bias, b), (layer.A, A), (layer.B, B)):
        parameter.copy_(value)
    return layer(x), layer.weight


def draws() -> list[Draw]:
    """Several ranks, and an update of zero."""
    draw = normal(92)

    def inputs(rank: int, alpha: float, d_in: int, d_out: int) -> tuple[object, ...]:
        W, b, A, B = draw(d_out, d_in), draw(d_out), draw(rank, d_in), draw(d_out, rank)
        return draw(11, d_in), W, b, A, B, alpha

    *start, alpha = inputs(2, 16.0, 7, 5)
    start[4] = start[4] * 0  # pyright: ignore[reportOperatorIssue]
    return [
        Draw("an update that has not been trained (B = 0)", (*start, alpha)),
        Draw("rank 3", inputs(3, 16.0, 7, 5)),
        Draw("rank 1", inputs(1, 2.0, 5, 13)),
        Draw("a square layer", inputs(3, 5.0, 7, 7)),
        Draw("a square layer whose width is the rank", inputs(5, 7.0, 5, 5)),
    ]


def wrong_lora(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    A: Tensor,
    B: Tensor,
    alpha: float,
    *,
    scale: str = "alpha / r",
    output: str = "beside",
    merged: str = "W + update",
) -> tuple[Tensor, Tensor]:
    """Apply the layer with one step done in another way."""
    r, (d_out, d_in) = len(A), W.shape
    s = {
        "alpha / r": alpha / r,
        "alpha": alpha,
        "1": 1.0,
        "alpha / sqrt(r)": alpha / r**0.5,
        "r / alpha": r / alpha,
        "1 / r": 1 / r,
        "alpha / Din": alpha / d_in,
        "alpha / Dout": alpha / d_out,
    }[scale]
    base, update = x @ W.T + b, s * (x @ A.T @ B.T)
    result = {
        "beside": lambda: base + update,
        "no base": lambda: update,
        "no base but bias": lambda: update + b,
        "no bias": lambda: x @ W.T + update,
        "base alone": lambda: base,
        "not scaled": lambda: base + x @ A.T @ B.T,
        "twice": lambda: base + 2 * update,
        "all scaled": lambda: s * (base + x @ A.T @ B.T),
        "bias twice": lambda: base + update + b,
        "turned": lambda: base + s * (x @ (B @ A)),
        "bias scaled": lambda: base + update + s * b,
    }[output]()
    matrix = {
        "W + update": lambda: W + s * (B @ A),
        "W": lambda: W,
        "update": lambda: s * (B @ A),
        "not scaled": lambda: W + B @ A,
        "twice": lambda: W + 2 * s * (B @ A),
        "turned update": lambda: W + s * (B @ A).T,
        "turned": lambda: (W + s * (B @ A)).T,
        "A B": lambda: W + s * (A @ B),
        "minus": lambda: W - s * (B @ A),
        "all scaled": lambda: s * (W + B @ A),
    }[merged]()
    return result, matrix


MISTAKES = (
    Mistake(
        "the update is scaled by alpha",
        partial(wrong_lora, scale="alpha"),
        "Your update is too large by r.",
        "r is the number of rows of A.",
    ),
    Mistake(
        "the update is not scaled",
        partial(wrong_lora, scale="1"),
        "Your update is B A x alone.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the update is scaled by alpha / sqrt(r)",
        partial(wrong_lora, scale="alpha / sqrt(r)"),
        "Your update is too large by sqrt(r).",
        "That is rank-stabilized LoRA; here the factor is alpha / r.",
    ),
    Mistake(
        "the scale is upside down",
        partial(wrong_lora, scale="r / alpha"),
        "Your update is scaled by r / alpha.",
        "A larger alpha makes a larger update.",
    ),
    Mistake(
        "alpha is missing in the scale",
        partial(wrong_lora, scale="1 / r"),
        "Your update is too small by alpha.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the update is divided by the width of the input",
        partial(wrong_lora, scale="alpha / Din"),
        "Your update is too small: r is taken from the wrong axis of A.",
        "A is (r, Din).",
    ),
    Mistake(
        "the update is divided by the width of the output",
        partial(wrong_lora, scale="alpha / Dout"),
        "Your update is too small: r is taken from the wrong axis of B.",
        "B is (Dout, r).",
    ),
    Mistake(
        "the original layer is missing",
        partial(wrong_lora, output="no base"),
        "Your output is the update alone: 0 if B is 0.",
        "The update is added to the output of the layer.",
    ),
    Mistake(
        "the original matrix is missing",
        partial(wrong_lora, output="no base but bias"),
        "Your output is bias and update: W has no influence.",
        "The update is added to the output of the layer.",
    ),
    Mistake(
        "the bias is missing",
        partial(wrong_lora, output="no bias"),
        "Your output is off by the bias, also where B is 0.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the bias is added twice",
        partial(wrong_lora, output="bias twice"),
        "Your output is off by the bias, also where B is 0.",
        "The update has no bias.",
    ),
    Mistake(
        "the bias is scaled",
        partial(wrong_lora, output="bias scaled"),
        "Your output is off by a multiple of the bias.",
        "The update has no bias.",
    ),
    Mistake(
        "the update is missing in the output",
        partial(wrong_lora, output="base alone"),
        "Your output does not depend on A and B.",
        "The update is added to the output of the layer.",
    ),
    Mistake(
        "the update of the output is not scaled",
        partial(wrong_lora, output="not scaled"),
        "Your merged weight is right, and the update of your output lacks alpha / r.",
        "Both have the same scale.",
    ),
    Mistake(
        "the update is applied twice",
        partial(wrong_lora, output="twice"),
        "Your output has the update twice: once merged and once beside.",
        "Merged or beside, not both.",
    ),
    Mistake(
        "the update is merged twice",
        partial(wrong_lora, merged="twice"),
        "Your merged weight has the update twice.",
        "Start from W.",
    ),
    Mistake(
        "everything is scaled",
        partial(wrong_lora, output="all scaled", merged="all scaled"),
        "Your original layer is scaled, too: the output changes where B is 0.",
        "alpha / r belongs to the update.",
    ),
    Mistake(
        "the output is scaled as a whole",
        partial(wrong_lora, output="all scaled"),
        "Your original layer is scaled, too: the output changes where B is 0.",
        "alpha / r belongs to the update.",
    ),
    Mistake(
        "the merged weight is W",
        partial(wrong_lora, merged="W"),
        "Your merged weight does not depend on A and B.",
        "A layer with the merged weight gives the same output.",
    ),
    Mistake(
        "the merged weight is the update",
        partial(wrong_lora, merged="update"),
        "Your merged weight is 0 if B is 0.",
        "A layer with the merged weight gives the same output.",
    ),
    Mistake(
        "the merged weight is not scaled",
        partial(wrong_lora, merged="not scaled"),
        "Your output is right, and the update of your merged weight lacks alpha / r.",
        "Both have the same scale.",
    ),
    Mistake(
        "the merged weight is turned",
        partial(wrong_lora, merged="turned"),
        "Your merged weight is (Din, Dout).",
        "The weight of a linear layer is (Dout, Din).",
    ),
    Mistake(
        "the merged update is turned",
        partial(wrong_lora, merged="turned update"),
        "Your function fails where Din and Dout differ, and adds (B A)^T where they do not.",
        "B A is (Dout, Din), as W is.",
    ),
    Mistake(
        "A B in place of B A",
        partial(wrong_lora, merged="A B"),
        "Your function fails unless the rank equals the width: A B is (r, r).",
        "B A is (Dout, Din), as W is.",
    ),
    Mistake(
        "the update is subtracted from W",
        partial(wrong_lora, merged="minus"),
        "Your merged weight has the update with the wrong sign.",
        "A layer with the merged weight gives the same output.",
    ),
    Mistake(
        "the update of the output is turned",
        partial(wrong_lora, output="turned"),
        "Your function fails where Din and Dout differ: x meets B A instead of its transpose.",
        "x has one example a row.",
    ),
)


EXERCISE = Exercise(
    number="9.2",
    title="A linear layer with LoRA",
    task=TASK.strip(),
    solve=lora,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="x has one example a row, so A x becomes x @ A.T, and B (A x) becomes x @ A.T @ B.T.",
    remark="Dividing by r keeps the size of the update, and the best rate, when the rank changes.",
)

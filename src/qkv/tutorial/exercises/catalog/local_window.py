"""Exercise 1.3: the weights of local-p attention."""

from functools import partial

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Local-p attention (Luong et al. 2015, equations 9 and 10) looks around a predicted position.
The prediction of query t is p_t = S * sigmoid(place_t), where S is the real length of the
row (without padding). Positions count from 0. A key at position s is in the window if it is
real (s < S) and |s - p_t| <= window, edges included. The weights are the softmax of the
scores over the keys in the window, each then multiplied by exp(-(s - p_t)^2 / (2 sigma^2)),
where sigma = window / 2. Outside the window they are 0. They are not normalized again.

scores: (B, Q, K)   place: (B, Q)   lengths: (B,), whole numbers   window: an int

Return the weights (B, Q, K).
"""


def local_weights(scores: Tensor, place: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Return the weights."""
    positions = torch.arange(scores.shape[-1])
    centre = lengths[:, None] * torch.sigmoid(place)  # (B, Q)
    offset = positions - centre[..., None]  # (B, Q, K)
    near = (offset.abs() <= window) & (positions < lengths[:, None, None])
    weights = scores.masked_fill(~near, float("-inf")).softmax(-1)
    return weights * torch.exp(-(offset**2) / (2 * (window / 2) ** 2))


def draws() -> list[Draw]:
    """In the third draw, windows reach their edges exactly."""
    draw = normal(13)
    return [
        Draw("rows without padding", (draw(2, 5, 13), draw(2, 5), torch.tensor([13, 13]), 3)),
        Draw("rows with padding", (draw(3, 5, 13), draw(3, 5), torch.tensor([13, 7, 2]), 3)),
        Draw(
            "windows that end exactly at a key",
            (draw(2, 3, 11), torch.zeros(2, 3, dtype=torch.float64), torch.tensor([10, 6]), 2),
        ),
    ]


def wrong_weights(
    scores: Tensor,
    place: Tensor,
    lengths: Tensor,
    window: int,
    *,
    centre: str = "S sigmoid",
    near: str = "inclusive",
    bell: str = "exp(-2 (d/D)^2)",
    order: str = "softmax in the window",
    first: int = 0,
) -> Tensor:
    """Compute the weights with one step done in another way."""
    n_keys = scores.shape[-1]
    positions = torch.arange(n_keys) + first
    sizes = lengths[:, None]
    p = {
        "S sigmoid": lambda: sizes * place.sigmoid(),
        "K sigmoid": lambda: n_keys * place.sigmoid(),
        "(S - 1) sigmoid": lambda: (sizes - 1) * place.sigmoid(),
        "S": lambda: sizes * place,
        "tanh": lambda: sizes * place.tanh(),
        "rounded": lambda: (sizes * place.sigmoid()).round(),
        "floor": lambda: (sizes * place.sigmoid()).floor(),
    }[centre]()
    offset = positions - p[..., None]
    real = (positions - first) < lengths[:, None, None]
    inside = {
        "inclusive": lambda: (offset.abs() <= window) & real,
        "exclusive": lambda: (offset.abs() < window) & real,
        "half": lambda: (offset.abs() <= window / 2) & real,
        "padding": lambda: offset.abs() <= window,
        "one side": lambda: (offset <= window) & real,
        "all": lambda: real.expand_as(offset),
    }[near]()
    curve = {
        "exp(-2 (d/D)^2)": lambda: torch.exp(-2 * (offset / window) ** 2),
        "sigma = D": lambda: torch.exp(-0.5 * (offset / window) ** 2),
        "no 2": lambda: torch.exp(-4 * (offset / window) ** 2),
        "variance = D / 2": lambda: torch.exp(-(offset**2) / window),
        "no square": lambda: torch.exp(-2 * offset.abs() / window**2),
        "density": lambda: (
            torch.exp(-2 * (offset / window) ** 2) / (window / 2 * (2 * torch.pi) ** 0.5)
        ),
        "none": lambda: torch.ones_like(offset),
    }[bell]()
    minus = float("-inf")
    if order == "softmax first":
        return scores.masked_fill(~real, minus).softmax(-1) * inside * curve
    if order == "softmax of everything":
        return scores.softmax(-1) * inside * curve
    if order == "scores times bell":
        return (scores * curve).masked_fill(~inside, minus).softmax(-1)
    weights = scores.masked_fill(~inside, minus).softmax(-1) * curve
    return weights / weights.sum(-1, keepdim=True) if order == "normalized again" else weights


MISTAKES = (
    Mistake(
        "sigma is the whole window",
        partial(wrong_weights, bell="sigma = D"),
        "Your weights fall too slowly away from p_t.",
        "sigma is half of the window.",
    ),
    Mistake(
        "the weights are normalized again",
        partial(wrong_weights, order="normalized again"),
        "Your weights sum to 1; after the Gaussian they must sum to less.",
        "Nothing comes after the Gaussian.",
    ),
    Mistake(
        "the window excludes its edges",
        partial(wrong_weights, near="exclusive"),
        "Your weights are 0 where |s - p_t| is exactly the window.",
        "Compare <= with <.",
    ),
    Mistake(
        "the window is half as wide",
        partial(wrong_weights, near="half"),
        "Your weights are 0 beyond half of the window.",
        "The window reaches `window` positions to each side; sigma is the half.",
    ),
    Mistake(
        "S is the padded length",
        partial(wrong_weights, centre="K sigmoid"),
        "Your p_t lies too far to the right in rows with padding.",
        "S is the row's own length.",
    ),
    Mistake(
        "p_t is at most S - 1",
        partial(wrong_weights, centre="(S - 1) sigmoid"),
        "Your p_t lies a little too far to the left.",
        "Equation 9 multiplies by S itself.",
    ),
    Mistake(
        "the sigmoid is missing",
        partial(wrong_weights, centre="S"),
        "Your p_t can lie before the first or behind the last token.",
        "What maps any number to one between 0 and 1?",
    ),
    Mistake(
        "tanh in place of sigmoid",
        partial(wrong_weights, centre="tanh"),
        "Your p_t is negative where the prediction is below 0.",
        "What maps any number to one between 0 and 1?",
    ),
    Mistake(
        "p_t is rounded",
        partial(wrong_weights, centre="rounded"),
        "Your window and Gaussian are centered on a token; p_t may lie between two.",
        "p_t is a real number; without it, it would have no gradient.",
    ),
    Mistake(
        "p_t is rounded down",
        partial(wrong_weights, centre="floor"),
        "Your window and Gaussian are centered on a token; p_t may lie between two.",
        "p_t is a real number; without it, it would have no gradient.",
    ),
    Mistake(
        "padding is in the window",
        partial(wrong_weights, near="padding"),
        "Your weights are above 0 at padding near the end of a row.",
        "A key must be near and real.",
    ),
    Mistake(
        "the window is open on the left",
        partial(wrong_weights, near="one side"),
        "Your weights are above 0 at all positions before the window, too.",
        "The distance counts in both directions: take its absolute value.",
    ),
    Mistake(
        "there is no window",
        partial(wrong_weights, near="all"),
        "Your weights are above 0 at all real tokens.",
        "Keys farther than `window` from p_t have a weight of 0.",
    ),
    Mistake(
        "the softmax comes before the window",
        partial(wrong_weights, order="softmax first"),
        "Your weights are right up to a factor: the softmax was shared with keys outside.",
        "Set the scores outside to minus infinity before the softmax.",
    ),
    Mistake(
        "the softmax comes before window and padding",
        partial(wrong_weights, order="softmax of everything"),
        "Your weights are right up to a factor: the softmax was shared with keys outside.",
        "Set the scores outside to minus infinity before the softmax.",
    ),
    Mistake(
        "the Gaussian multiplies the scores",
        partial(wrong_weights, order="scores times bell"),
        "Your weights sum to 1: the Gaussian went into the softmax.",
        "The weights are multiplied, not the scores.",
    ),
    Mistake(
        "the Gaussian is missing",
        partial(wrong_weights, bell="none"),
        "Your weights sum to 1 in each window.",
        "Equation 10 has a second factor.",
    ),
    Mistake(
        "the 2 in the Gaussian is missing",
        partial(wrong_weights, bell="no 2"),
        "Your weights fall too fast away from p_t: each Gaussian factor is squared.",
        "The denominator is 2 sigma^2.",
    ),
    Mistake(
        "sigma^2 and sigma are exchanged",
        partial(wrong_weights, bell="variance = D / 2"),
        "Your Gaussian has the variance window / 2.",
        "sigma = window / 2 is squared in the formula.",
    ),
    Mistake(
        "the distance is not squared",
        partial(wrong_weights, bell="no square"),
        "Your weights have a peak at p_t instead of a bell.",
        "Look at the numerator of the exponent.",
    ),
    Mistake(
        "the Gaussian is a density",
        partial(wrong_weights, bell="density"),
        "Your weights are right up to a factor, 1 / (sigma sqrt(2 pi)).",
        "The factor is 1 at p_t itself.",
    ),
    Mistake(
        "positions count from 1",
        partial(wrong_weights, first=1),
        "Your window and Gaussian lie one position too far to the left.",
        "The first token is at position 0.",
    ),
)


EXERCISE = Exercise(
    number="1.3",
    title="The weights of local-p attention",
    task=TASK.strip(),
    solve=local_weights,
    draws=draws,
    mistakes=MISTAKES,
    hint="Build the tensor of offsets s - p_t, (B, Q, K), first; the window and the bell need it.",
    remark=(
        "The Gaussian is there for the gradient: a window alone would give p_t none. As it only "
        "makes weights smaller, they sum to less than 1."
    ),
)

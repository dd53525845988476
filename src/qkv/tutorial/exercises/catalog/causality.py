"""Exercise 5.3: does a module look ahead?"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Find out whether a module is causal: whether its output at each position depends only on its
input at that and earlier positions. The module maps (B, L, width) to (B, L, width), in
float64, for any B and L up to 17. A leak may be weak (as little as a millionth of the change
of the input reaches the output), may need several tokens of distance, and may show at some
positions only. The module may contain dropout: call module.eval() first. You cannot look
inside; try inputs and compare outputs.

module: an nn.Module   width: an int

Return True if the module is causal, else False.
"""


def is_causal(module: nn.Module, width: int) -> bool:
    """Return whether no output depends on a later input."""
    module.eval()
    x = torch.randn(2, 17, width, dtype=torch.float64)
    before = module(x)
    for t in range(1, x.shape[1]):
        changed = x.clone()
        changed[:, t:] += torch.randn_like(x[:, t:])
        if not torch.allclose(module(changed)[:, :t], before[:, :t], rtol=0, atol=1e-10):
            return False
    return True


class Mixer(nn.Module):
    """Mixes positions by a function of the length, (L, L), and of the input."""

    def __init__(self, mix: Callable[[Tensor], Tensor], *, dropout: float = 0.0):
        super().__init__()
        self.mix, self.dropout = mix, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        return self.dropout(self.mix(x))


def _attend(x: Tensor, diagonal: int) -> Tensor:
    allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(diagonal)
    return (x @ x.mT).masked_fill(~allowed, float("-inf")).softmax(-1) @ x


def _shift(x: Tensor, distance: int, strength: float = 1.0) -> Tensor:
    """Add to each position what stands `distance` positions later, or earlier if negative."""
    padded = torch.cat((x, x.new_zeros(len(x), abs(distance), x.shape[2])), 1)
    if distance < 0:
        padded = torch.cat((x.new_zeros(len(x), -distance, x.shape[2]), x), 1)
        return x + strength * padded[:, : x.shape[1]]
    return x + strength * padded[:, distance : distance + x.shape[1]]


def _norm_over_time(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (1 + x.var(1, keepdim=True, correction=0))


def _middle_only(x: Tensor) -> Tensor:
    """The second position alone sees the third."""
    out = x.clone()
    if x.shape[1] > 2:
        out[:, 1] = x[:, 1] + x[:, 2]
    return out


def draws() -> list[Draw]:
    """Modules that are causal and modules that leak, each in its own way."""
    draw = normal(53)
    W = draw(5, 5)
    modules: list[tuple[str, nn.Module]] = [
        ("attention with a causal mask", Mixer(lambda x: _attend(x, 0))),
        ("attention without a mask", Mixer(lambda x: _attend(x, 99))),
        ("a module that works on each token alone", Mixer(lambda x: torch.tanh(x @ W))),
        ("attention whose mask is off by one", Mixer(lambda x: _attend(x, 1))),
        ("a norm over all positions", Mixer(_norm_over_time)),
        ("causal attention with dropout", Mixer(lambda x: _attend(x, 0), dropout=0.4)),
        ("a sum over the past", Mixer(lambda x: x.cumsum(1))),
        ("a sum over the future", Mixer(lambda x: x.flip(1).cumsum(1).flip(1))),
        ("a leak of one millionth", Mixer(lambda x: _shift(x, 1, 1e-6))),
        ("a leak over five tokens", Mixer(lambda x: _shift(x, 5))),
        ("a look three tokens back", Mixer(lambda x: _shift(x, -3))),
        ("a leak at one position only", Mixer(_middle_only)),
        ("a sequence that is reversed", Mixer(lambda x: x.flip(1))),
        ("a leak with dropout", Mixer(lambda x: _shift(x, 2), dropout=0.4)),
    ]
    return [Draw(label, (module, 5)) for label, module in modules]


def wrong_test(
    module: nn.Module,
    width: int,
    *,
    length: int = 17,
    places: str = "all",
    tolerance: float = 1e-10,
    dropout: bool = False,
    compare: str = "before",
    turned: bool = False,
) -> bool:
    """Test a module with one thing done in another way."""
    module.train(dropout)
    x = torch.randn(2, length, width, dtype=torch.float64)
    before, same = module(x), True
    for t in range(length - 1 if places == "last" else 1, length):
        changed = x.clone()
        if compare == "after":
            changed[:, :t] += torch.randn_like(x[:, :t])
            now, then = module(changed)[:, t:], before[:, t:]
        elif places == "neighbor":
            changed[:, t] += torch.randn_like(x[:, t])
            now, then = module(changed)[:, t - 1], before[:, t - 1]
        elif compare == "neighbor":
            changed[:, t:] += torch.randn_like(x[:, t:])
            now, then = module(changed)[:, t - 1], before[:, t - 1]
        elif compare == "everything":
            changed[:, t:] += torch.randn_like(x[:, t:])
            now, then = module(changed), before
        elif compare == "itself":
            changed[:, t:] += torch.randn_like(x[:, t:])
            now, then = module(changed)[:, : t + 1], before[:, : t + 1]
        else:
            changed[:, t:] += torch.randn_like(x[:, t:])
            now, then = module(changed)[:, :t], before[:, :t]
        same = same and torch.allclose(now, then, rtol=0, atol=tolerance)
    return same != turned


MISTAKES = (
    Mistake(
        "only one place is tested",
        partial(wrong_test, places="last"),
        "You miss the leak at one position only: it is not where you look.",
        "A leak may be anywhere: try every t.",
    ),
    Mistake(
        "only neighbors are tested",
        partial(wrong_test, places="neighbor"),
        "You miss leaks over more than one token.",
        "Change everything from t on, not one token.",
    ),
    Mistake(
        "the tolerance hides a leak",
        partial(wrong_test, tolerance=1e-4),
        "You miss the leak of one millionth.",
        "The outputs of a causal module do not change at all.",
    ),
    Mistake(
        "the sequence is too short",
        partial(wrong_test, length=4),
        "You miss the leak over five tokens.",
        "A leak over n tokens needs more than n tokens.",
    ),
    Mistake(
        "there are two tokens only",
        partial(wrong_test, length=2),
        "You miss all leaks over more than one token.",
        "A leak over n tokens needs more than n tokens.",
    ),
    Mistake(
        "only the last two tokens are tested",
        partial(wrong_test, places="last", compare="neighbor"),
        "You find only leaks from the last token to the one before it.",
        "Compare all outputs before the change, and try every t.",
    ),
    Mistake(
        "there is one token only",
        partial(wrong_test, length=1),
        "You find every module causal: a single token has no future.",
        "Look at sequences of several tokens.",
    ),
    Mistake(
        "dropout is on",
        partial(wrong_test, dropout=True),
        "You find a leak in causal attention with dropout: its outputs change by themselves.",
        "module.eval() switches dropout off.",
    ),
    Mistake(
        "the past is changed and the future compared",
        partial(wrong_test, compare="after"),
        "You find a leak in every module that looks back.",
        "Causal means: the future does not change the past.",
    ),
    Mistake(
        "everything is compared",
        partial(wrong_test, compare="everything"),
        "You find a leak in every module: outputs at changed inputs may change.",
        "Compare the outputs before the change only.",
    ),
    Mistake(
        "True and False are exchanged",
        partial(wrong_test, turned=True),
        "All your answers are wrong: you return whether there is a leak.",
        "True means causal.",
    ),
)


EXERCISE = Exercise(
    number="5.3",
    title="Does a module look ahead?",
    task=TASK.strip(),
    solve=is_causal,
    draws=draws,
    mistakes=MISTAKES,
    hint="Change everything from position t on, and compare the outputs before t; for each t.",
    remark=(
        "A causal module's outputs before t are equal to the last bit here, so the tolerance can "
        "be tiny. Looking at gradients instead works too: each output's gradient with respect to "
        "later inputs must be 0."
    ),
)

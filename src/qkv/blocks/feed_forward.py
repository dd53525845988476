"""The position-wise feed-forward network: the same two or three matrices at every position."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.blocks.dropout import dropout as drop
from qkv.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,  # x * Phi(x), exactly (Hendrycks and Gimpel 2016)
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's; off by up to 5e-4
    "silu": F.silu,
}
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": ACTIVATIONS["gelu_tanh"],
}


class FeedForward(nn.Module):
    """FFN(x) = W2 f(W1 x), or gated: W2 (f(W_g x) * W1 x).

    f = ReLU is Vaswani et al. 2017, eq. 2; the gated kinds are Shazeer 2020, eq. 6.

    Args:
        d_model: width of input and output.
        d_ff: width of the hidden layer.
        kind: relu, gelu, gelu_tanh, silu, or the gated swiglu, geglu, geglu_tanh.
        bias: whether the matrices have biases.
        dropout: probability of dropping an element of the hidden layer in training (T5, BART).

    Raises:
        ConfigError: for an unknown kind.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        kind: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if kind not in ACTIVATIONS and kind not in GATES:
            known = ", ".join((*ACTIVATIONS, *GATES))
            raise ConfigError(f"unknown feed-forward kind {kind!r}; expected one of {known}")
        self.kind, self.dropout = kind, dropout
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.gate = nn.Linear(d_model, d_ff, bias=bias) if kind in GATES else None
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Project up, apply the nonlinearity, project down."""
        if self.gate is None:
            between = ACTIVATIONS[self.kind](self.up(x))
        else:
            between = GATES[self.kind](self.gate(x)) * self.up(x)
        if self.training and self.dropout:
            between = drop(between, self.dropout)
        return self.down(between)

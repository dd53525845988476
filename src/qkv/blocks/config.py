"""Options in which at least two of the shipped families differ.

What varies from call to call is an argument; what a single family or paper needs is passed as a
module.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from qkv.errors import ConfigError

FeedForwardKind = Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu", "geglu_tanh"]
FEED_FORWARD_KINDS = get_args(FeedForwardKind)
NORM_KINDS = ("layer", "rms")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The configuration of a Transformer block.

    Raises:
        ConfigError: for an unknown kind, a dropout outside [0, 1), or a size below 1.
    """

    d_model: int
    n_heads: int
    d_ff: int
    n_kv_heads: int | None = None  # fewer than n_heads: grouped; 1: multi-query
    d_head: int | None = None  # None: d_model / n_heads
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = False  # False: norm(x + f(x)), as in the paper; True: x + f(norm(x))
    norm_eps: float = 1e-5
    feed_forward: FeedForwardKind = "relu"
    bias: bool = True
    qkv_bias: bool | None = None  # None: as `bias`
    causal: bool = False
    cross_attention: bool = False
    rotary_base: float | None = None  # None: no rotary positions
    dropout: float = 0.0  # on each sublayer's output
    attention_dropout: float = 0.0  # on the attention weights

    def __post_init__(self) -> None:
        """Check the values; divisibility is checked where the sizes are divided."""
        for field, known in (("feed_forward", FEED_FORWARD_KINDS), ("norm", NORM_KINDS)):
            if getattr(self, field) not in known:
                raise ConfigError(
                    f"{field} = {getattr(self, field)!r} is unknown; "
                    f"expected one of {', '.join(known)}"
                )
        for field in ("d_model", "n_heads", "d_ff"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} = {getattr(self, field)}; expected at least 1")
        for field in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(
                    f"{field} = {getattr(self, field)}; expected a probability in [0, 1): "
                    "that of dropping, not of keeping"
                )

"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners").

Shapes: B batch, L tokens, D d_model.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.positions import LearnedPositions
from qkv.blocks.stack import Stack
from qkv.models.causal import CausalLM
from qkv.models.initialization import initialize


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A pre-norm decoder with learned positions; the defaults are the smallest published model."""

    vocab_size: int = 50257
    n_positions: int = 1024
    d_model: int = 768
    n_heads: int = 12
    d_ff: int = 3072
    n_layers: int = 12
    norm_eps: float = 1e-5
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu_tanh"
    dropout: float = 0.1  # of each sublayer's output
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    head_dropout: float = 0.1  # of a head that classifies tokens
    tied_output: bool = True  # the output layer's weight is the embedding

    def block(self) -> BlockConfig:
        """Return the configuration of every block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm_first=True,
            norm_eps=self.norm_eps,
            feed_forward=self.activation,
            causal=True,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


class GPT(CausalLM):
    """Tokens and learned positions into a causal stack; `n_positions` tokens at most.

    Raises:
        LengthError: in `forward`, `start` and `step`, after the last learned position.
    """

    def __init__(self, config: GPTConfig):
        stack = Stack(config.block(), config.n_layers)
        super().__init__(config.vocab_size, config.d_model, stack, tied_output=config.tied_output)
        self.config = config
        self.positions = LearnedPositions(config.n_positions, config.d_model)
        initialize(self.positions.table)
        self.dropout = Dropout(config.embedding_dropout)

    def embed(
        self, tokens: Int[Tensor, "B L"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        """Add the vector of each position to that of each token."""
        return self.dropout(self.positions(self.embedding(tokens), positions))

"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners").

Shapes: B batch, H heads, L and Q tokens, D d_model, K d_head.
"""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.positions import LearnedPositions
from qkv.blocks.stack import Stack
from qkv.models.causal import CausalLM
from qkv.models.initialization import initialize


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The configuration; the defaults are the smallest published model."""

    vocab_size: int = 50257
    n_positions: int = 1024
    d_model: int = 768
    n_heads: int = 12
    d_ff: int = 3072
    n_layers: int = 12
    norm_eps: float = 1e-5
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu_tanh"
    dropout: float = 0.1  # on each sublayer's output
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    head_dropout: float = 0.1  # of a token classification head
    tied_output: bool = True  # the output layer's weight is the embedding
    divided_by_root: bool = True  # scores are q . k / sqrt(d_head)
    divided_by_layer: bool = False  # also by the layer's index, from 1 (Karamcheti et al. 2021)

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

    def attention(self, layer: int) -> "ScaledAttention | None":
        """Build the attention of a layer if it differs from the block's default."""
        factor = 1.0
        if not self.divided_by_root:
            factor *= math.sqrt(self.d_model // self.n_heads)  # by which `attention` divides
        if self.divided_by_layer:
            factor /= layer + 1
        return None if factor == 1 else ScaledAttention(self, factor)


class ScaledAttention(MultiHeadAttention):
    """Causal multi-head attention whose scores are multiplied by a factor."""

    def __init__(self, config: GPTConfig, factor: float):
        super().__init__(
            config.d_model, config.n_heads, causal=True, dropout=config.attention_dropout
        )
        self.factor = factor

    def queries(self, x: Float[Tensor, "B Q D"], positions: Tensor) -> Float[Tensor, "B H Q K"]:
        """Project and scale."""
        return super().queries(x, positions) * self.factor


class GPT(CausalLM):
    """A pre-norm causal stack with learned positions, for at most `n_positions` tokens.

    Raises:
        LengthError: in `forward`, `start` and `step`, beyond the last learned position.
    """

    def __init__(self, config: GPTConfig):
        block = config.block()
        stack = Stack(
            block,
            config.n_layers,
            make_block=lambda i: Block(block, self_attention=config.attention(i)),
        )
        super().__init__(config.vocab_size, config.d_model, stack, tied_output=config.tied_output)
        self.config = config
        self.positions = LearnedPositions(config.n_positions, config.d_model)
        initialize(self.positions.table)
        self.dropout = Dropout(config.embedding_dropout)

    def embed(
        self, tokens: Int[Tensor, "B L"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        """Add token and position embeddings."""
        return self.dropout(self.positions(self.embedding(tokens), positions))

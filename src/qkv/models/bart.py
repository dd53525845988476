"""BART (Lewis et al. 2020, "Denoising sequence-to-sequence pre-training").

And mBART (Liu et al. 2020, "Multilingual denoising pre-training"): BART with pre-norm blocks.

Shapes: B batch, S source tokens, T target tokens, D d_model.
"""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import LayerNorm
from qkv.blocks.positions import LearnedPositions
from qkv.blocks.stack import Stack
from qkv.models.encoder_decoder import EncoderDecoder, shift_right
from qkv.models.initialization import initialize

FIRST_POSITION = 2  # earlier rows belonged to padding and are never used


@dataclass(frozen=True, kw_only=True)
class BartConfig:
    """An encoder-decoder with learned positions; the defaults are BART large."""

    vocab_size: int = 50_265
    n_positions: int = 1024  # of each table, without the rows before the first position
    d_model: int = 1024
    n_heads: int = 16
    d_ff: int = 4096
    n_encoder_layers: int = 12
    n_decoder_layers: int = 12
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    norm_first: bool = False  # mBART: True
    dropout: float = 0.1
    attention_dropout: float = 0.0
    scaled_embedding: bool = False  # by sqrt(d_model); mBART: True
    activation_dropout: float = 0.0  # in the hidden layer of the feed-forward network
    head_dropout: float = 0.0  # of a classification head
    # For a classifier: the decoder's first token (None: the last token of the source), and the
    # token whose state is classified. A list of end tokens is used for decoding only.
    start_token: int | None = 2
    end_token: int | tuple[int, ...] | None = 2

    def block(self, *, decoder: bool) -> BlockConfig:
        """Return the configuration of an encoder or decoder block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm_first=self.norm_first,
            feed_forward=self.activation,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            causal=decoder,
            cross_attention=decoder,
        )


class Bart(EncoderDecoder):
    """One token table for source, target and output layer, and two position tables.

    Raises:
        LengthError: in `forward`, `encode`, `start` and `step`, beyond the last learned position.
    """

    def __init__(self, config: BartConfig):
        super().__init__()
        self.config = config
        scale = math.sqrt(config.d_model) if config.scaled_embedding else 1.0
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model, scale=scale)
        self.source_positions, self.target_positions = (
            LearnedPositions(config.n_positions, config.d_model, offset=FIRST_POSITION)
            for _ in range(2)
        )
        self.source_norm, self.target_norm = (LayerNorm(config.d_model) for _ in range(2))
        self.dropout = Dropout(config.dropout)
        self.encoder = self._stack(config.n_encoder_layers, decoder=False)
        self.decoder = self._stack(config.n_decoder_layers, decoder=True)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(initialize)
        self.head.weight = self.embedding.weight

    def read(
        self, tokens: Int[Tensor, "B T"], *, token_mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Run both stacks on one text, for a head on the decoder (Lewis et al. 2020, section 3.1).

        Args:
            tokens: ids.
            token_mask: True = a real token; None if all are.
        """
        target = shift_right(tokens, token_mask, start=self.config.start_token)
        return self.hidden(tokens, target, source_mask=token_mask, target_mask=token_mask)

    def embed_source(
        self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B S D"]:
        """Add token and position embeddings, and normalize."""
        x = self.source_positions(self.embedding(tokens), positions)
        return self.dropout(self.source_norm(x))

    def embed_target(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """Add token and position embeddings, and normalize."""
        x = self.target_positions(self.embedding(tokens), positions)
        return self.dropout(self.target_norm(x))

    def _stack(self, n_layers: int, *, decoder: bool) -> Stack:
        config = self.config
        block = config.block(decoder=decoder)

        def feed_forward() -> FeedForward:
            return FeedForward(
                config.d_model,
                config.d_ff,
                kind=config.activation,
                dropout=config.activation_dropout,
            )

        return Stack(
            block, n_layers, make_block=lambda i: Block(block, feed_forward=feed_forward())
        )

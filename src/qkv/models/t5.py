"""T5 (Raffel et al. 2020, "Exploring the limits of transfer learning"), versions 1.0 and 1.1.

Shapes: B batch, H heads, Q queries, S source tokens, T target tokens, D d_model, K d_head.
"""

import math
from dataclasses import dataclass
from typing import cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig, FeedForwardKind
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import RMSNorm
from qkv.blocks.positions import RelativeBias
from qkv.blocks.stack import Stack
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.models.initialization import initialize


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The configuration; the defaults are the small model, version 1.0."""

    vocab_size: int = 32_128
    d_model: int = 512
    n_heads: int = 8
    d_head: int = 64
    d_ff: int = 2048
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    feed_forward: FeedForwardKind = "relu"  # version 1.1: geglu_tanh
    n_buckets: int = 32  # of distances
    max_distance: int = 128  # from which on all distances share a bucket
    norm_eps: float = 1e-6
    dropout: float = 0.1
    # True: the output layer is the embedding, and its input is divided by sqrt(d_model). Version
    # 1.1: a separate matrix, and no division.
    tied_output: bool = True

    def block(self, *, decoder: bool) -> BlockConfig:
        """Return the configuration of an encoder or decoder block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_head=self.d_head,
            d_ff=self.d_ff,
            norm="rms",
            norm_first=True,
            norm_eps=self.norm_eps,
            feed_forward=self.feed_forward,
            bias=False,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            causal=decoder,
            cross_attention=decoder,
        )


class UnscaledAttention(MultiHeadAttention):
    """Multi-head attention with scores q . k, for which the weights are initialized smaller."""

    def queries(self, x: Float[Tensor, "B Q D"], positions: Tensor) -> Float[Tensor, "B H Q K"]:
        """Project, and compensate for the root by which `attention` divides."""
        return super().queries(x, positions) * math.sqrt(self.d_head)


class ClosingNorm(RMSNorm):
    """The final norm of a stack, with dropout and a factor."""

    def __init__(self, d_model: int, *, eps: float, dropout: float, factor: float = 1.0):
        super().__init__(d_model, eps=eps)
        self.dropout, self.factor = Dropout(dropout), factor

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalize each vector."""
        x = self.dropout(super().forward(x))
        return x if self.factor == 1 else x * self.factor


class T5Encoder(nn.Module):
    """The encoder alone, for text embeddings and heads.

    Raffel et al. 2020, section 2.1.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.stack = make_stack(config, config.n_encoder_layers, decoder=False)
        self.stack.norm = ClosingNorm(config.d_model, eps=config.norm_eps, dropout=config.dropout)
        initialize_t5(self, config)

    def forward(
        self, tokens: Int[Tensor, "B S"], *, token_mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Encode each token in its context.

        Args:
            tokens: ids.
            token_mask: True = a real token; None if all are.
        """
        x = self.dropout(self.embedding(tokens))
        return self.stack(x, mask=attention_mask(token_mask))


class T5(EncoderDecoder):
    """A pre-norm encoder-decoder with a relative position bias, one per stack.

    Raffel et al. 2020, section 2.1.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.encoder = make_stack(config, config.n_encoder_layers, decoder=False)
        self.decoder = make_stack(config, config.n_decoder_layers, decoder=True)
        factor = config.d_model**-0.5 if config.tied_output else 1.0
        self.encoder.norm, self.decoder.norm = (
            ClosingNorm(config.d_model, eps=config.norm_eps, dropout=config.dropout, factor=x)
            for x in (1.0, factor)
        )
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        initialize_t5(self, config)
        if config.tied_output:
            self.head.weight = self.embedding.weight

    def embed_source(
        self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B S D"]:
        """Look up each token."""
        return self.dropout(self.embedding(tokens))

    def embed_target(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """Look up each token."""
        return self.dropout(self.embedding(tokens))

    def without_head(self) -> "T5":
        """Remove the output layer, and the factor that belongs to a tied one."""
        cast(ClosingNorm, self.decoder.norm).factor = 1.0
        super().without_head()
        return self


def make_stack(config: T5Config, n_layers: int, *, decoder: bool) -> Stack:
    """Build the encoder or decoder; its layers share one position bias."""
    block = config.block(decoder=decoder)
    bias = RelativeBias(
        config.n_heads,
        n_buckets=config.n_buckets,
        max_distance=config.max_distance,
        bidirectional=not decoder,
    )

    def attention(*, causal: bool = False, bias: RelativeBias | None = None) -> UnscaledAttention:
        return UnscaledAttention(
            config.d_model,
            config.n_heads,
            d_head=config.d_head,
            bias=False,
            causal=causal,
            dropout=config.dropout,
            position_bias=bias,
        )

    def make_block(i: int) -> Block:
        return Block(
            block,
            self_attention=attention(causal=decoder, bias=bias),
            cross_attention=attention() if decoder else None,
            feed_forward=FeedForward(
                config.d_model,
                config.d_ff,
                kind=config.feed_forward,
                bias=False,
                dropout=config.dropout,
            ),
        )

    return Stack(block, n_layers, make_block=make_block)


def initialize_t5(model: nn.Module, config: T5Config) -> None:
    """Initialize so that projections keep the variance of their input and scores have 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            divided = config.d_head if name.endswith("attention.query") else 1
            initialize(module, std=(module.in_features * divided) ** -0.5)
        if isinstance(module, RelativeBias):
            initialize(module.table, std=config.d_model**-0.5)

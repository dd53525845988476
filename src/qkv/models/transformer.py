"""The encoder-decoder Transformer (Vaswani et al. 2017, "Attention is all you need").

Shapes: B batch, S source tokens, T target tokens, D d_model.
"""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.blocks.config import BlockConfig, FeedForwardKind
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The configuration; the defaults are the paper's base model.

    Raises:
        ConfigError: if vocabularies of different sizes are to share an embedding.
    """

    source_vocab_size: int
    target_vocab_size: int
    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = False
    norm_eps: float = 1e-5
    feed_forward: FeedForwardKind = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    tied_output: bool = True  # the output layer's weight is the target embedding
    output_bias: bool = False
    scaled_embeddings: bool = True  # by sqrt(d_model), as in the paper
    shared_embeddings: bool = False  # source and target share one vocabulary and one table
    sinusoid_layout: Literal["interleaved", "halves"] = "interleaved"
    sinusoid_divisor: float | None = None  # None: d_model / 2
    first_position: int = 0
    rotary_base: float | None = None  # rotary positions in self-attention, instead of sinusoids

    def __post_init__(self) -> None:
        """Check the values that no block checks."""
        if self.sinusoid_layout not in ("interleaved", "halves"):
            raise ConfigError(
                f"sinusoid_layout = {self.sinusoid_layout!r}; expected 'interleaved' or 'halves'"
            )
        if self.shared_embeddings and self.source_vocab_size != self.target_vocab_size:
            raise ConfigError(
                "shared_embeddings need one vocabulary, but source_vocab_size = "
                f"{self.source_vocab_size} and target_vocab_size = {self.target_vocab_size}; train "
                "one tokenizer on both languages"
            )

    def block(self, *, decoder: bool) -> BlockConfig:
        """Return the configuration of an encoder or decoder block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm=self.norm,
            norm_first=self.norm_first,
            norm_eps=self.norm_eps,
            feed_forward=self.feed_forward,
            rotary_base=self.rotary_base,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            causal=decoder,
            cross_attention=decoder,
        )


class Transformer(EncoderDecoder):
    """Encoder and decoder with embeddings and an output layer (Vaswani et al. 2017, figure 1)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        scale = math.sqrt(config.d_model) if config.scaled_embeddings else 1.0
        self.target_embedding = TokenEmbedding(
            config.target_vocab_size, config.d_model, scale=scale
        )
        self.source_embedding = (
            self.target_embedding
            if config.shared_embeddings
            else TokenEmbedding(config.source_vocab_size, config.d_model, scale=scale)
        )
        self.positions = SinusoidalPositions(
            config.d_model,
            layout=config.sinusoid_layout,
            divisor=config.sinusoid_divisor,
            first=config.first_position,
        )
        self.dropout = Dropout(config.dropout)
        self.encoder = Stack(config.block(decoder=False), config.n_encoder_layers)
        self.decoder = Stack(config.block(decoder=True), config.n_decoder_layers)
        self.head = nn.Linear(config.d_model, config.target_vocab_size, bias=config.output_bias)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                nn.init.xavier_uniform_(parameter)
        if config.tied_output:
            self.head.weight = self.target_embedding.weight

    def embed_source(
        self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B S D"]:
        """Add token embeddings and sinusoids, unless positions are rotary."""
        return self._with_positions(self.source_embedding(tokens), positions)

    def embed_target(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """Add token embeddings and sinusoids, unless positions are rotary."""
        return self._with_positions(self.target_embedding(tokens), positions)

    def _with_positions(
        self, x: Float[Tensor, "B L D"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        return self.dropout(self.positions(x, positions) if self.config.rotary_base is None else x)

"""The encoder-decoder Transformer (Vaswani et al. 2017, "Attention is all you need").

Shapes: B batch, S source tokens, T target tokens, D d_model, V target vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.linear import Linear
from qkv.attention.masks import attention_mask, token_positions
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The model of 2017; the defaults are the paper's base model.

    Raises:
        ConfigError: if one embedding is to be shared by vocabularies of different size.
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
    feed_forward: Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu"] = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    tied_output: bool = True  # the output layer's weight is the target embedding
    output_bias: bool = False
    shared_embeddings: bool = False  # source and target have one vocabulary and one table
    sinusoid_layout: Literal["interleaved", "halves"] = "interleaved"
    sinusoid_divisor: float | None = None  # d_model / 2
    first_position: int = 0

    def __post_init__(self) -> None:
        """Check what no block checks."""
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
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            causal=decoder,
            cross_attention=decoder,
        )


class Transformer(nn.Module):
    """Encoder and decoder between embeddings and output layer (Vaswani et al. 2017, figure 1)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        scale = math.sqrt(config.d_model)
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
        self.head = Linear(config.d_model, config.target_vocab_size, bias=config.output_bias)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                nn.init.xavier_uniform_(parameter)
        if config.tied_output:
            self.head.weight = self.target_embedding.weight

    def forward(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Predict each next target token.

        Args:
            source: token ids.
            target: token ids, shifted right: they begin with the start token.
            source_mask: True = a real token; None where all are.
            target_mask: likewise; not needed for right padding, which no earlier token can see.

        Raises:
            VocabularyError: on an id outside the vocabulary.
        """
        return self.head(
            self.hidden(source, target, source_mask=source_mask, target_mask=target_mask)
        )

    def hidden(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Compute what the output layer reads: `forward` is `head(hidden(...))`."""
        memory = self.encode(source, source_mask)
        x = self._embed(self.target_embedding, target, token_positions(target, target_mask))
        return self.decoder(
            x,
            memory,
            mask=attention_mask(target_mask),
            memory_mask=attention_mask(source_mask),
        )

    def encode(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Run the encoder: the memory that the decoder attends to."""
        x = self._embed(self.source_embedding, source, token_positions(source, token_mask))
        return self.encoder(x, mask=attention_mask(token_mask))

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> DecodingState:
        """Encode the source; the state that this returns is continued by `step`."""
        return DecodingState(
            self.config.n_decoder_layers, self.encode(source, token_mask), token_mask
        )

    def step(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """Predict the token after each of the n new ones; the state remembers them.

        Args:
            tokens: what follows the tokens of earlier steps; first the start token.
            state: of `start`; changed in place.
            token_mask: True = a real token, for prefixes padded on the left; None where all are.
        """
        mask, positions = state.advance(tokens, token_mask)
        hidden = self.decoder(
            self._embed(self.target_embedding, tokens, positions),
            state.memory,
            mask=mask,
            memory_mask=state.memory_mask,
            caches=state.caches,
        )
        return self.head(hidden)

    def _embed(
        self, embedding: TokenEmbedding, ids: Int[Tensor, "B L"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        return self.dropout(self.positions(embedding(ids), positions))

"""The BERT family of text encoders (Devlin et al. 2019).

RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019) are the same model with other configs.

Shapes: B batch, L tokens, D d_model.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.masks import attention_mask, token_positions
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.norms import LayerNorm
from qkv.blocks.positions import LearnedPositions
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, ShapeError
from qkv.models.initialization import initialize
from qkv.models.pooling import first_token


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The configuration of the encoder; the defaults are BERT base.

    Raises:
        ConfigError: if a size is below 1, or no position remains after the first.
    """

    vocab_size: int = 30_522
    n_positions: int = 512  # rows of the table, including those before the first position
    first_position: int = 0  # RoBERTa: 2
    n_segments: int = 2  # RoBERTa: 1, the same for every token; DistilBERT: 0
    d_model: int = 768
    n_heads: int = 12
    d_ff: int = 3072
    n_layers: int = 12
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    norm_eps: float = 1e-12
    pooler: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1  # of a classification head

    def __post_init__(self) -> None:
        """Check the values that no block checks."""
        for name in ("vocab_size", "n_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")
        if self.n_positions <= self.first_position:
            raise ConfigError(
                f"n_positions = {self.n_positions} leaves no position after first_position = "
                f"{self.first_position}; the rows before the first count too"
            )
        self.block()

    def block(self) -> BlockConfig:
        """Return the configuration of every block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm_eps=self.norm_eps,
            feed_forward=self.activation,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


class SegmentEmbedding(nn.Embedding):
    """An embedding for each segment, the texts of a pair.

    Raises:
        ShapeError: in `forward` on a CPU, if an index is not a segment.
    """

    def forward(self, input: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Look up each token's segment."""
        try:
            return super().forward(input)
        except IndexError:
            raise ShapeError(
                f"got segments from {int(input.min())} to {int(input.max())}; the model was "
                f"trained with {self.num_embeddings}, counted from 0"
            ) from None


class Bert(nn.Module):
    """Embeddings and a stack of bidirectional post-norm blocks.

    Devlin et al. 2019, section 3.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.segments = None
        if config.n_segments:
            self.segments = SegmentEmbedding(config.n_segments, config.d_model)
        self.positions = LearnedPositions(
            config.n_positions - config.first_position,
            config.d_model,
            offset=config.first_position,
        )
        self.norm = LayerNorm(config.d_model, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.stack = Stack(config.block(), config.n_layers)
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        self.apply(initialize)

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        segments: Int[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Encode each token in its context.

        Args:
            tokens: ids, including the start and end tokens used in training.
            token_mask: True = a real token; None if all are.
            segments: 0 for the first text of a pair, 1 for the second; None means 0.
            positions: None counts the real tokens from 0.

        Raises:
            ShapeError: if the model was not trained with these segments.
        """
        if positions is None:
            positions = token_positions(tokens, token_mask)
        x = self.embedding(tokens)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        elif segments is not None:
            raise ShapeError("segments were passed to a model without segment embeddings")
        x = self.norm(self.positions(x, positions))
        return self.stack(self.dropout(x), mask=attention_mask(token_mask))

    def pool(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Pool a text to the state of its first token: tanh(W h_0 + b), trained on sentence pairs.

        Raises:
            ShapeError: if the model has no pooler (like RoBERTa and DistilBERT).
        """
        if self.pooler is None:
            raise ShapeError("this model has no pooler; use the first token or the mean instead")
        return torch.tanh(self.pooler(first_token(hidden, token_mask)))

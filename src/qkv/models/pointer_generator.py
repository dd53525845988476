"""A decoder that generates words or copies them from the source (See et al. 2017).

"Get to the point: summarization with pointer-generator networks", with a Transformer in place of
the LSTMs. The encoder is a pretrained BERT; source and summary share its subword vocabulary, so
that copied tokens need no additional ids.

Shapes: B batch, S source tokens, T target tokens, E width of the encoder, D d_model, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention.core import attention_weights
from qkv.attention.masks import attention_mask, check_tokens, token_positions
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.positions import SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.models.bert import Bert, BertConfig
from qkv.models.initialization import initialize
from qkv.models.seq2seq import Seq2Seq


@dataclass(frozen=True, kw_only=True)
class PointerGeneratorConfig:
    """The configuration; the encoder's defaults are those of all-MiniLM-L6-v2."""

    vocab_size: int = 30_522
    n_positions: int = 512
    n_segments: int = 2
    d_encoder: int = 384
    n_encoder_heads: int = 12
    d_encoder_ff: int = 1536
    n_encoder_layers: int = 6
    encoder_activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    encoder_norm_eps: float = 1e-12
    d_model: int = 192  # of the decoder
    n_heads: int = 6
    d_ff: int = 768
    n_layers: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check both stacks before either is built."""
        self.encoder()
        self.decoder()

    def encoder(self) -> BertConfig:
        """Return the encoder's config; it is frozen and has no dropout."""
        return BertConfig(
            vocab_size=self.vocab_size,
            n_positions=self.n_positions,
            n_segments=self.n_segments,
            d_model=self.d_encoder,
            n_heads=self.n_encoder_heads,
            d_ff=self.d_encoder_ff,
            n_layers=self.n_encoder_layers,
            activation=self.encoder_activation,
            norm_eps=self.encoder_norm_eps,
            dropout=0.0,
            attention_dropout=0.0,
            pooler=False,
        )

    def decoder(self) -> BlockConfig:
        """Return the configuration of the decoder's blocks."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm_first=True,
            feed_forward="gelu",
            causal=True,
            cross_attention=True,
            dropout=self.dropout,
        )


class Decoded(NamedTuple):
    """The parts of eq. 9: both distributions and the gate between them.

    Args:
        hidden: states of the decoder, from which P_vocab is computed.
        copy: weights of the source positions; they sum to 1.
        gate: logit of p_gen.
    """

    hidden: Float[Tensor, "B T D"]
    copy: Float[Tensor, "B T S"]
    gate: Float[Tensor, "B T"]


class PointerState(DecodingState):
    """The decoding state, with the source's ids, which can be copied."""

    def __init__(
        self,
        n_layers: int,
        memory: Float[Tensor, "B S D"],
        source: Int[Tensor, "B S"],
        token_mask: Bool[Tensor, "B S"] | None,
    ):
        super().__init__(n_layers, memory, token_mask)
        self.source = source

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        super().reorder(rows)
        self.source = self.source[rows]

    def join(self, other: "DecodingState") -> None:
        """Add the rows of another state below these; the shorter source is padded on the right."""
        assert isinstance(other, PointerState)
        super().join(other)
        size = max(self.source.shape[1], other.source.shape[1])
        halves = (F.pad(one.source, (0, size - one.source.shape[1])) for one in (self, other))
        self.source = torch.cat(list(halves))


class PointerGenerator(Seq2Seq[PointerState]):
    """P(w) = p_gen P_vocab(w) + (1 - p_gen) sum over the positions i of w of a_i (eq. 9).

    The decoder uses the encoder's embedding for input and output, with a projection between the two
    widths, so that few parameters are trained.
    """

    def __init__(self, config: PointerGeneratorConfig):
        super().__init__()
        self.config = config
        self.encoder = Bert(config.encoder())
        width, d_encoder = config.d_model, config.d_encoder
        self.memory = nn.Linear(d_encoder, width)
        self.input = nn.Linear(d_encoder, width)
        self.positions = SinusoidalPositions(width)
        self.dropout = Dropout(config.dropout)
        self.decoder = Stack(config.decoder(), config.n_layers)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(3 * width, 1)
        self.output = nn.Linear(width, d_encoder)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        for module in (self.memory, self.input, self.query, self.key, self.gate, self.output):
            initialize(module)

    def forward(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Return the log-probabilities of each next target token."""
        decoded = self.decode(
            self.encode(source, source_mask),
            target,
            source_mask=source_mask,
            target_mask=target_mask,
        )
        return self.log_mixture(decoded, source)

    def encode(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S E"]:
        """Run the encoder."""
        return self.encoder(source, token_mask=token_mask)

    def decode(
        self,
        features: Float[Tensor, "B S E"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Decoded:
        """Run the decoder on the encoder's output; see `forward`."""
        memory, mask = self.memory(features), attention_mask(source_mask)
        check_tokens(target, features.shape[0])
        x = self.embed(target, token_positions(target, target_mask))
        hidden = self.decoder(x, memory, mask=attention_mask(target_mask), memory_mask=mask)
        return self.point(hidden, x, memory, mask)

    def loss(
        self,
        features: Float[Tensor, "B S E"],
        source: Int[Tensor, "B S"],
        target_input: Int[Tensor, "B T"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"],
        target_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Return the sum of -log P of eq. 9 over the target's real tokens.

        Both terms are computed as logarithms: if one of them underflows in float32, the other keeps
        its gradient. The vocabulary is scored at real tokens only.

        Args:
            features: output of the encoder.
            source: token ids that may be copied.
            target_input: token ids, shifted right: they begin with the start token.
            target: token ids to predict.
            source_mask: True = a real token.
            target_mask: True = a real token, for both; padding is on the right.
        """
        hidden, copy, gate = self.decode(features, target_input, source_mask=source_mask)
        logits = self.write(hidden[target_mask]).float()  # (real tokens, V)
        written = -F.cross_entropy(logits, target[target_mask], reduction="none")
        copied = (copy * (source[:, None] == target[..., None])).sum(-1)[target_mask].float()
        # A token that is not in the source cannot be copied: its term is exp(-inf), with no
        # gradient.
        log_copied = copied.clamp_min(torch.finfo(torch.float32).tiny).log()
        log_copied = log_copied.masked_fill(copied == 0, -math.inf)
        gate = gate[target_mask].float()
        log_p = torch.logaddexp(F.logsigmoid(gate) + written, F.logsigmoid(-gate) + log_copied)
        return -log_p.sum()

    def embed(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """Embed tokens as the input of the decoder."""
        return self.dropout(self.positions(self.input(self.encoder.embedding(tokens)), positions))

    def point(
        self,
        hidden: Float[Tensor, "B T D"],
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"],
        memory_mask: Bool[Tensor, "..."] | None,
    ) -> Decoded:
        """Compute the copy weights, and the gate from context, state and input (eq. 8)."""
        copy = attention_weights(
            self.query(hidden)[:, None], self.key(memory)[:, None], mask=memory_mask
        )[:, 0]  # (B, T, S)
        gate = self.gate(torch.cat((copy @ memory, hidden, x), -1))[..., 0]
        return Decoded(hidden, copy, gate)

    def write(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Return the logits of P_vocab, with the encoder's embedding as output layer."""
        return F.linear(self.output(hidden), self.encoder.embedding.weight, self.bias)

    def log_mixture(self, decoded: Decoded, source: Int[Tensor, "B S"]) -> Float[Tensor, "B T V"]:
        """Return the logarithm of eq. 9 for every token, clamped to that of the smallest number."""
        hidden, copy, gate = decoded
        written = self.write(hidden).softmax(-1) * gate.sigmoid()[..., None]
        copied = copy * (-gate).sigmoid()[..., None]
        places = source[:, None].expand_as(copied)
        mixture = written.scatter_add(-1, places, copied.to(written.dtype))
        return mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> PointerState:
        """Encode the source; return the state for `step`."""
        memory = self.memory(self.encode(source, token_mask))
        return PointerState(len(self.decoder.blocks), memory, source, token_mask)

    def step(
        self,
        tokens: Int[Tensor, "B n"],
        state: PointerState,
        token_mask: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """Return the log-probabilities of the token after each of the n new ones."""
        mask, positions = state.advance(tokens, token_mask)
        assert state.memory is not None
        x = self.embed(tokens, positions)
        hidden = self.decoder(
            x, state.memory, mask=mask, memory_mask=state.memory_mask, caches=state.caches
        )
        memory, memory_mask = state.memory_of_rows()
        assert memory is not None
        return self.log_mixture(self.point(hidden, x, memory, memory_mask), state.source)

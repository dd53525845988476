"""Recurrent encoder-decoders, optionally with attention (Bahdanau et al. 2015; Luong et al. 2015).

Shapes: B batch, S source tokens, T target tokens, H width of the decoder, M width of the memory.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv.attention.additive import AdditiveAttention
from qkv.attention.cache import MemoryCache
from qkv.attention.local import LocalAttention
from qkv.attention.masks import attention_mask, check_token_mask, check_tokens
from qkv.attention.multiplicative import (
    ConcatAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
)
from qkv.attention.single_head import SingleHeadAttention
from qkv.blocks.dropout import Dropout
from qkv.blocks.embedding import TokenEmbedding
from qkv.errors import ConfigError, LengthError
from qkv.models.seq2seq import Seq2Seq

Score = Literal["additive", "dot", "general", "concat", "location"]
Hidden = tuple[Tensor, ...]  # (h,) for a GRU, (h, c) for an LSTM; each (B, H)


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """The configuration of a bidirectional encoder and a decoder that may attend to it.

    Raises:
        ConfigError: for an unknown kind, an odd width, or options that exclude each other.
    """

    source_vocab_size: int
    target_vocab_size: int
    d_embedding: int = 64
    d_hidden: int = 128  # of the decoder; each direction of the encoder has half
    cell: Literal["gru", "lstm"] = "gru"
    score: Score | None = "additive"  # None: no attention; one vector carries the source
    decoder: Literal["bahdanau", "luong"] = "bahdanau"  # attend before or after the cell
    local: Literal["local-m", "local-p"] | None = None
    window: int = 5  # of local attention, on either side
    input_feeding: bool = True  # Luong: the last attentional vector enters the cell
    max_source_length: int | None = None  # for location scores only
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        choices = {
            "cell": ("gru", "lstm"),
            "score": ("additive", "dot", "general", "concat", "location", None),
            "decoder": ("bahdanau", "luong"),
            "local": ("local-m", "local-p", None),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ConfigError(f"{field} = {getattr(self, field)!r}; expected one of {known}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout}; expected a probability in [0, 1)")
        if self.d_hidden % 2:
            raise ConfigError(f"d_hidden = {self.d_hidden} is odd; each direction gets half of it")
        if self.score is None and (self.decoder == "bahdanau" or self.local):
            raise ConfigError(
                "score = None means no attention; only decoder = 'luong' with local = None "
                "can do without"
            )
        if self.score == "location" and self.max_source_length is None:
            raise ConfigError("location scores need max_source_length, one row of W per position")


def make_attention(config: RNNConfig) -> SingleHeadAttention | None:
    """Build the attention for a config."""
    width = config.d_hidden  # of queries and memory alike
    match config.score:
        case None:
            return None
        case "additive":
            attention: SingleHeadAttention = AdditiveAttention(width, width, width)
        case "dot":
            attention = DotAttention(width, width)
        case "general":
            attention = GeneralAttention(width, width)
        case "concat":
            attention = ConcatAttention(width, width, width)
        case "location":
            attention = LocationAttention(width, config.max_source_length or 0)
    if config.local is None:
        return attention
    return LocalAttention(attention, width, window=config.window, kind=config.local)


class RNNEncoder(nn.Module):
    """A bidirectional GRU or LSTM; annotation s represents the words around word s.

    Bahdanau et al. 2015, section 3.2.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        recurrent = nn.GRU if config.cell == "gru" else nn.LSTM
        self.recurrent = recurrent(
            config.d_embedding, config.d_hidden // 2, batch_first=True, bidirectional=True
        )

    def forward(
        self, x: Float[Tensor, "B S E"], token_mask: Bool[Tensor, "B S"] | None
    ) -> tuple[Float[Tensor, "B S M"], Hidden]:
        """Return the annotations, zero at padding, and the concatenated last states."""
        if token_mask is None:
            memory, last = self.recurrent(x)
            return memory, self._join(last)
        lengths = token_mask.sum(-1)
        if not lengths.all():
            raise LengthError(
                f"rows {(lengths == 0).nonzero().flatten().tolist()} of the source have no real "
                "token; an empty sequence has nothing to encode"
            )
        # Move real tokens to the front, so that the backward direction starts at a real token.
        order = (~token_mask).long().argsort(dim=-1, stable=True)
        packed = pack_padded_sequence(
            x.gather(1, order[..., None].expand_as(x)),
            lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        packed_memory, last = self.recurrent(packed)
        memory, _ = pad_packed_sequence(packed_memory, batch_first=True, total_length=x.shape[1])
        back = order.argsort(dim=-1)
        return memory.gather(1, back[..., None].expand_as(memory)), self._join(last)

    def _join(self, last: Tensor | Hidden) -> Hidden:
        parts = (last,) if isinstance(last, Tensor) else last
        return tuple(torch.cat((part[0], part[1]), -1) for part in parts)  # (2, B, H/2) -> (B, H)


class DecoderStep(NamedTuple):
    """The decoder after one token."""

    hidden: Hidden
    fed: Float[Tensor, "B H"]  # the attentional vector, which Luong feeds back
    place: Int[Tensor, " B"]  # number of real tokens so far: the t of local-m


class RNNState:
    """The decoding state: the memory, and every step so far, for rewinding."""

    def __init__(
        self,
        memory: Float[Tensor, "B S M"],
        token_mask: Bool[Tensor, "B S"] | None,
        hidden: Hidden,
    ):
        self.memory = memory
        self.mask = attention_mask(token_mask)
        self.cache = MemoryCache()
        nothing, zero = torch.zeros_like(hidden[0]), hidden[0].new_zeros(len(memory)).long()
        self.history = [DecoderStep(hidden, nothing, zero)]

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return len(self.history) - 1

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        self.memory = self.memory[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.cache.reorder(rows)
        self.history = [
            DecoderStep(tuple(part[rows] for part in hidden), fed[rows], place[rows])
            for hidden, fed, place in self.history
        ]

    def rewind(self, length: int) -> None:
        """Discard everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise LengthError(f"cannot rewind to length {length}: the state holds {self.length}")
        del self.history[length + 1 :]

    def join(self, other: "RNNState") -> None:
        """Add the rows of another state of the same model below these.

        The shorter memory is padded on the right. The joined state can be rewound by as many
        positions as both can.
        """
        size = max(self.memory.shape[1], other.memory.shape[1])
        halves = [one._padded(size) for one in (self, other)]
        self.memory, mask = (torch.cat(parts) for parts in zip(*halves, strict=True))
        self.mask = None if bool(mask.all()) else mask
        self.cache.join(other.cache, (0, 0))
        steps = min(self.length, other.length) + 1
        both = zip(self.history[-steps:], other.history[-steps:], strict=True)
        self.history = [
            DecoderStep(
                tuple(torch.cat(parts) for parts in zip(one.hidden, two.hidden, strict=True)),
                torch.cat((one.fed, two.fed)),
                torch.cat((one.place, two.place)),
            )
            for one, two in both
        ]

    def _padded(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the memory and its mask, padded on the right."""
        mask, padding = self.mask, (0, size - self.memory.shape[1])
        if mask is None:
            mask = self.memory.new_ones(self.memory.shape[:2], dtype=torch.bool)[:, None, None]
        return F.pad(self.memory, (0, 0, *padding)), F.pad(mask, padding, value=False)


class RNNDecoder(nn.Module):
    """One step of the decoder: cell, attention and readout, in Bahdanau's or Luong's order."""

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.attend_first = config.decoder == "bahdanau"
        self.feeds = self.attend_first or config.input_feeding
        cell = nn.GRUCell if config.cell == "gru" else nn.LSTMCell
        self.cell = cell(
            config.d_embedding + (config.d_hidden if self.feeds else 0), config.d_hidden
        )
        self.attention = make_attention(config)
        n_vectors = 1 if self.attention is None else 2
        self.readout = nn.Linear(n_vectors * config.d_hidden, config.d_hidden, bias=False)

    def forward(self, x: Float[Tensor, "B E"], state: RNNState) -> Float[Tensor, "B H"]:
        """Process one token; return the attentional vector that predicts the next.

        Bahdanau (section 3.1, A.2.2): c_t = attend(s_{t-1}); s_t = f(s_{t-1}, y_{t-1}, c_t). Luong
        (section 3): h_t = f(h_{t-1}, [y_{t-1}; h~_{t-1}]); c_t = attend(h_t). Both end with h~_t =
        tanh(W_c [c_t; h_t]) (Luong, eq. 5), which for Bahdanau replaces a maxout layer, so that the
        two differ only in the order of attention.
        """
        hidden, fed, place = state.history[-1]
        if self.attend_first:
            fed = self._context(hidden[0], state)
        hidden = self._recur(torch.cat((x, fed), -1) if self.feeds else x, hidden)
        context = fed if self.attend_first else self._context(hidden[0], state)
        vector = torch.tanh(self.readout(torch.cat((context, hidden[0]), -1)))
        state.history.append(DecoderStep(hidden, vector, place + 1))
        return vector

    def _context(self, query: Float[Tensor, "B H"], state: RNNState) -> Float[Tensor, "B M"]:
        if self.attention is None:
            return query.new_zeros(len(query), 0)  # no attention: a context of width 0
        context = self.attention(
            query[:, None],
            state.memory,
            mask=state.mask,
            positions=state.history[-1].place[:, None],
            cache=state.cache,
        )
        return context.squeeze(1)

    def _recur(self, x: Float[Tensor, "B I"], hidden: Hidden) -> Hidden:
        if len(hidden) == 1:
            return (self.cell(x, hidden[0]),)
        return self.cell(x, hidden)


class RNNSeq2Seq(Seq2Seq[RNNState]):
    """Encoder, bridge, decoder and output layer, with the Transformer's decoding protocol."""

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.config = config
        self.source_embedding = TokenEmbedding(config.source_vocab_size, config.d_embedding)
        self.target_embedding = TokenEmbedding(config.target_vocab_size, config.d_embedding)
        self.encoder = RNNEncoder(config)
        self.bridge = nn.Linear(config.d_hidden, config.d_hidden)
        self.decoder = RNNDecoder(config)
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.d_hidden, config.target_vocab_size)

    def hidden(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T H"]:
        """Encode the source and process the target; padding does not change the state."""
        return self.advance(target, self.start(source, source_mask), target_mask)

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> RNNState:
        """Encode the source; return the state for `step`."""
        if token_mask is not None:
            check_token_mask(token_mask, source)
        x = self.dropout(self.source_embedding(source))
        memory, last = self.encoder(x, token_mask)
        hidden = (torch.tanh(self.bridge(last[0])), *last[1:])
        return RNNState(memory, token_mask, hidden)

    def advance(
        self, tokens: Int[Tensor, "B n"], state: RNNState, token_mask: Bool[Tensor, "B n"] | None
    ) -> Float[Tensor, "B n H"]:
        """Process the new tokens one after another."""
        check_tokens(tokens, state.memory.shape[0])
        if token_mask is not None:
            check_token_mask(token_mask, tokens)
        x = self.dropout(self.target_embedding(tokens))
        vectors = []
        # Unbind once: the gradient of a slice would allocate a full x of zeros at every t.
        for t, x_t in enumerate(x.unbind(1)):
            before = state.history[-1]
            vectors.append(self.decoder(x_t, state))
            if token_mask is not None:
                state.history[-1] = _keep(token_mask[:, t], state.history[-1], before)
        return self.dropout(torch.stack(vectors, 1))


def _keep(real: Bool[Tensor, " B"], after: DecoderStep, before: DecoderStep) -> DecoderStep:
    """Keep the old state of rows whose token is padding."""
    column = real[:, None]
    hidden = tuple(
        torch.where(column, new, old) for new, old in zip(after.hidden, before.hidden, strict=True)
    )
    return DecoderStep(
        hidden,
        torch.where(column, after.fed, before.fed),
        torch.where(real, after.place, before.place),
    )

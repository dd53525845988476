"""Small models for the tests of decoding, and sources for them."""

import torch
from torch import nn

from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig

VOCAB, START, STOP = 13, 1, 2


class GRUState:
    """Hidden states of every step, so that it can be rewound."""

    def __init__(self, hidden):
        self.hidden = [hidden]

    @property
    def length(self):
        return len(self.hidden) - 1

    def reorder(self, rows):
        self.hidden = [h[rows] for h in self.hidden]

    def rewind(self, length):
        del self.hidden[length + 1 :]

    def join(self, other):
        steps = min(self.length, other.length) + 1
        both = zip(self.hidden[-steps:], other.hidden[-steps:], strict=True)
        self.hidden = [torch.cat(halves) for halves in both]


class GRU(nn.Module):
    """The smallest model with a state: a recurrent cell that starts from the source's mean."""

    def __init__(self, d_model=11):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, d_model)
        self.cell = nn.GRUCell(d_model, d_model)
        self.head = nn.Linear(d_model, VOCAB)

    def start(self, source, token_mask=None):
        keep = torch.ones_like(source).bool() if token_mask is None else token_mask
        keep = keep.to(self.head.weight.dtype)[..., None]
        return GRUState((self.embedding(source) * keep).sum(1) / keep.sum(1))

    def step(self, tokens, state, token_mask=None):
        for t, token in enumerate(tokens.unbind(1)):
            hidden = self.cell(self.embedding(token), state.hidden[-1])
            if token_mask is not None:
                hidden = torch.where(token_mask[:, t : t + 1], hidden, state.hidden[-1])
            state.hidden.append(hidden)
        return self.head(torch.stack(state.hidden[-tokens.shape[1] :], 1))

    def forward(self, source, target, *, source_mask=None, target_mask=None):
        return self.step(target, self.start(source, source_mask), target_mask)


def rnn():
    return RNNSeq2Seq(
        RNNConfig(source_vocab_size=VOCAB, target_vocab_size=VOCAB, d_embedding=5, d_hidden=6)
    )


def transformer():
    return Transformer(
        TransformerConfig(
            source_vocab_size=VOCAB,
            target_vocab_size=VOCAB,
            d_model=6,
            n_heads=2,
            d_ff=7,
            n_encoder_layers=2,
            n_decoder_layers=2,
        )
    )


def sources(rows=19, length=5):
    """Right-padded sources and their mask."""
    torch.manual_seed(5)
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    return torch.randint(3, VOCAB, (rows, length)) * mask, mask


class Scripted:
    """Says what its source says, token by token; remembers which rows it was asked for."""

    def start(self, source, token_mask=None):
        self.asked = []
        self.rows = torch.arange(len(source))
        self.source = source
        self.length = 0
        return self

    def reorder(self, rows):
        self.rows = self.rows[rows]

    def rewind(self, length):
        self.length = length

    def step(self, tokens, state, token_mask=None):
        self.asked.append((tokens[:, 0].tolist(), self.rows.tolist()))
        said = self.source[self.rows, self.length]
        self.length += tokens.shape[1]
        return nn.functional.one_hot(said, VOCAB).double()[:, None]


class Markov:
    """The next token depends on the last one alone: a table of logits, and states without memory.

    Args:
        table: row i is the logits of what follows token i.
    """

    def __init__(self, table):
        self.table = table
        self.steps = 0

    def start(self, source, token_mask=None):
        return Places()

    def step(self, tokens, state, token_mask=None):
        self.steps += 1
        state.length += tokens.shape[1]
        return self.table[tokens]


class Timed(Markov):
    """The next token depends on the last one and on the place: one table a place, no two alike."""

    def step(self, tokens, state, token_mask=None):
        places = torch.arange(state.length, state.length + tokens.shape[1])
        state.length += tokens.shape[1]
        return self.table[places, tokens]

    def __call__(self, source, target):
        return self.step(target, Places())


class Places:
    """How many tokens were stepped."""

    length = 0

    def reorder(self, rows):
        pass

    def rewind(self, length):
        assert 0 <= length <= self.length
        self.length = length


def nothing(rows=1):
    """Sources without a token."""
    return torch.empty(rows, 0, dtype=torch.int64)

import itertools

import pytest
import torch
from torch import nn

from qkv.errors import ConfigError
from qkv.generation.greedy import greedy
from qkv.generation.state import Decodable, State
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig

VOCAB, START, STOP = 13, 1, 2


class GRUState:
    """Hidden states of every step, so that it can be rewound."""

    def __init__(self, hidden):
        self.hidden = [hidden]
        self.sizes = []

    @property
    def length(self):
        return len(self.hidden) - 1

    def reorder(self, rows):
        self.sizes.append(len(rows))
        self.hidden = [h[rows] for h in self.hidden]

    def rewind(self, length):
        del self.hidden[length + 1 :]


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
        self.state = GRUState((self.embedding(source) * keep).sum(1) / keep.sum(1))
        return self.state

    def step(self, tokens, state):
        for token in tokens.unbind(1):
            state.hidden.append(self.cell(self.embedding(token), state.hidden[-1]))
        return self.head(torch.stack(state.hidden[-tokens.shape[1] :], 1))

    def forward(self, source, target, *, source_mask=None, target_mask=None):
        return self.step(target, self.start(source, source_mask))


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


@pytest.fixture(params=[GRU, rnn, transformer], ids=["gru", "rnn", "transformer"])
def model(request):
    """Random weights, so large that answers differ and end at different lengths."""
    torch.manual_seed(0)
    model = request.param().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def sources(rows=19, length=5):
    torch.manual_seed(5)
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    return torch.randint(3, VOCAB, (rows, length)) * mask, mask


def naive(model, source, mask, max_length):
    """The whole prefix again for each token, one row at a time."""
    answers = []
    for row in range(len(source)):
        prefix = torch.tensor([[START]])
        while prefix.shape[1] <= max_length and (prefix.shape[1] == 1 or prefix[0, -1] != STOP):
            real = mask[row : row + 1]
            logits = model(source[row : row + 1], prefix, source_mask=real)
            prefix = torch.cat((prefix, logits[:, -1:].argmax(-1)), 1)
        answers.append(prefix[0, 1:].tolist())
    longest = max(len(answer) for answer in answers)
    return [answer + [STOP] * (longest - len(answer)) for answer in answers]


def decode(model, source, mask, max_length=9):
    return greedy(
        model, source, token_mask=mask, start=START, stop=STOP, max_length=max_length
    ).tolist()


def test_equals_recomputing_the_whole_prefix(model):
    source, mask = sources()
    ours = decode(model, source, mask)
    assert ours == naive(model, source, mask, 9)
    # The test would prove little if all answers were equal or equally long.
    lengths = {answer.index(STOP) if STOP in answer else len(answer) for answer in ours}
    assert len(lengths) >= 3
    assert len({tuple(answer) for answer in ours}) >= 6


def test_a_row_alone_equals_the_row_in_the_batch(model):
    source, mask = sources()
    together = decode(model, source, mask)
    for row, answer in enumerate(together):
        alone = decode(model, source[row : row + 1], mask[row : row + 1])[0]
        assert alone + [STOP] * (len(answer) - len(alone)) == answer


def test_a_row_that_leaves_changes_no_other(model):
    source, mask = sources()
    together = decode(model, source, mask)
    lengths = [answer.index(STOP) if STOP in answer else len(answer) for answer in together]
    longest = max(lengths)
    slow = [row for row, length in enumerate(lengths) if length == longest]
    assert 0 < len(slow) < len(lengths)
    assert decode(model, source[slow], mask[slow]) == [together[row] for row in slow]


def test_when_rows_leave_changes_nothing(model, monkeypatch):
    source, mask = sources()
    together = decode(model, source, mask)
    for leaving in (1, 1000):  # all at the end, and each at once
        monkeypatch.setattr("qkv.generation.greedy.LEAVING", leaving)
        assert decode(model, source, mask) == together


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

    def step(self, tokens, state):
        self.asked.append((tokens[:, 0].tolist(), self.rows.tolist()))
        said = self.source[self.rows, self.length]
        self.length += 1
        return nn.functional.one_hot(said, VOCAB).double()[:, None]


def test_finished_rows_leave_and_answers_keep_the_order_of_the_input():
    model = Scripted()
    source = torch.tensor([[5, 2, 9, 9], [6, 7, 8, 2], [2, 9, 9, 9], [4, 3, 2, 9]])
    answers = decode(model, source, None)
    assert answers == [[5, 2, 2, 2], [6, 7, 8, 2], [2, 2, 2, 2], [4, 3, 2, 2]]
    assert model.asked == [
        ([START] * 4, [0, 1, 2, 3]),
        ([5, 6, 4], [0, 1, 3]),
        ([7, 3], [1, 3]),
        ([8], [1]),
    ]


def test_max_length_ends_answers_that_do_not_stop():
    source = torch.tensor([[5, 6, 7, 8], [5, 2, 9, 9]])
    assert decode(Scripted(), source, None, max_length=3) == [[5, 6, 7], [5, 2, 2]]
    assert decode(Scripted(), source, None, max_length=1) == [[5], [5]]


@pytest.mark.parametrize("max_length", [0, -3])
def test_no_place_for_a_token_is_refused(max_length):
    with pytest.raises(ConfigError, match=f"max_length is {max_length}, expected at least 1"):
        decode(Scripted(), torch.tensor([[5]]), None, max_length=max_length)


def test_no_rows_give_no_answers():
    source = torch.empty(0, 5, dtype=torch.int64)
    assert greedy(Scripted(), source, start=START, stop=STOP, max_length=5).shape == (0, 0)


def test_answers_can_be_trained_on(model):
    source, mask = sources(rows=3)
    answers = greedy(model, source, token_mask=mask, start=START, stop=STOP, max_length=4)
    model(source, answers, source_mask=mask).sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_the_models_follow_the_protocol(model):
    assert isinstance(model, Decodable)
    source, mask = sources(rows=3)
    state = model.start(source, mask)
    assert isinstance(state, State)
    for length in itertools.islice(itertools.count(1), 3):
        model.step(source[:, :1], state)
        assert state.length == length

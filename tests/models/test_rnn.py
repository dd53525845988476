"""What the recurrent models promise beside the laws of tests/laws."""

from itertools import product

import pytest
import torch
from tests.helpers import (
    SCORES,
    SOURCE_VOCAB,
    TARGET_VOCAB,
    B,
    S,
    T,
    assert_close,
    problem,
    right_mask,
    rnn,
    to_left,
    unchecked,
)

from qkv.errors import ConfigError, LengthError, ShapeError, VocabularyError
from qkv.models.rnn import RNNConfig


@pytest.mark.parametrize(
    ("score", "decoder"), [*product(SCORES, ("bahdanau", "luong")), (None, "luong")]
)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_shapes_and_the_head(score, decoder, cell):
    model, (source, target, mask) = rnn(score=score, decoder=decoder, cell=cell), problem()
    hidden = model.hidden(source, target, source_mask=mask)
    assert hidden.shape == (B, T, 26)
    logits = model(source, target, source_mask=mask)
    assert logits.shape == (B, T, TARGET_VOCAB)
    assert torch.equal(logits, model.head(hidden))


def test_bahdanau_attends_from_the_state_before_the_word():
    model = rnn(score="general")
    source, target, _ = problem()
    state = model.start(source)
    before = state.history[0].hidden[0]
    y = model.target_embedding(target)[:, 0]
    context = model.decoder.attention(before[:, None], state.memory)[:, 0]
    after = model.decoder.cell(torch.cat((y, context), -1), before)
    vector = torch.tanh(model.decoder.readout(torch.cat((context, after), -1)))
    assert_close(model.step(target[:, :1], state)[:, 0], model.head(vector))


@pytest.mark.parametrize("feeding", [True, False])
def test_luong_attends_from_the_state_after_the_word(feeding):
    model = rnn(score="general", decoder="luong", input_feeding=feeding)
    source, target, _ = problem()
    state = model.start(source)
    hidden, fed = state.history[0].hidden[0], torch.zeros(B, 26).double()
    logits = []
    for t in range(2):
        y = model.target_embedding(target)[:, t]
        hidden = model.decoder.cell(torch.cat((y, fed), -1) if feeding else y, hidden)
        context = model.decoder.attention(hidden[:, None], state.memory)[:, 0]
        fed = torch.tanh(model.decoder.readout(torch.cat((context, hidden), -1)))
        logits.append(model.head(fed))
    assert_close(model.step(target[:, :2], state), torch.stack(logits, 1))


def test_without_attention_all_passes_through_one_vector():
    model, (source, target, mask) = rnn(score=None, decoder="luong"), problem()
    assert model.decoder.attention is None
    state = model.start(source, mask)
    expected = model.step(target, state)
    state = model.start(source, mask)
    state.memory = torch.full_like(state.memory, float("nan"))  # nothing may read it
    assert torch.equal(model.step(target, state), expected)


def test_padding_of_the_memory_is_zero():
    model, (source, _, mask) = rnn(), problem()
    for tokens, real in ((source, mask), to_left(source, mask)):
        memory = model.start(tokens, real).memory
        assert (memory[~real] == 0).all()
        assert memory[real].all()


def test_an_empty_source_is_refused():
    model, (source, target, _) = rnn(), problem()
    mask = right_mask([0, 3, 0], S)
    with pytest.raises(LengthError, match=r"rows \[0, 2\] of the source have no real token"):
        model(source, target, source_mask=mask)


def test_a_source_longer_than_location_scores_is_refused():
    model = rnn(score="location")  # for 23 places
    source, target = torch.ones(B, 29).long(), torch.ones(B, T).long()
    with pytest.raises(LengthError, match=r"got 29 keys, .* at most 23"):
        model(source, target)


@pytest.mark.parametrize("side", ["source", "target"])
def test_ids_outside_the_vocabulary_are_refused(side):
    model, (source, target, _) = rnn(), problem()
    (source if side == "source" else target)[0, 0] = 23
    size = SOURCE_VOCAB if side == "source" else TARGET_VOCAB
    with pytest.raises(VocabularyError, match=rf"to 23, but the vocabulary has {size}"):
        model(source, target)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mask_of_numbers_is_refused(side):
    model, (source, target, _) = rnn(), problem()
    mask = torch.ones_like(source if side == "source" else target)
    with unchecked(), pytest.raises(ShapeError, match=r"dtype torch.int64 .* expected a boolean"):
        model(source, target, **{f"{side}_mask": mask})


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mask_of_another_length_is_refused(side):
    model, (source, target, _) = rnn(), problem()
    with unchecked(), pytest.raises(ShapeError, match=r"\(3, 13\)"):
        model(source, target, **{f"{side}_mask": torch.ones(B, 13, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "rnn"}, r"cell = 'rnn'; expected one of \('gru', 'lstm'\)"),
        ({"score": "cosine"}, "score = 'cosine'; expected one of"),
        ({"decoder": "sutskever"}, "decoder = 'sutskever'; expected one of"),
        ({"local": "local-x"}, "local = 'local-x'; expected one of"),
        ({"d_hidden": 7}, "d_hidden = 7 is odd; each direction gets half"),
        ({"score": None}, "score = None means no attention; only decoder = 'luong'"),
        ({"score": None, "decoder": "luong", "local": "local-m"}, "only decoder = 'luong' with"),
        ({"score": "location"}, "location scores need max_source_length"),
        ({"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        RNNConfig(source_vocab_size=SOURCE_VOCAB, target_vocab_size=TARGET_VOCAB, **options)

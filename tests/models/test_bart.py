"""What BART is made of, and how it starts."""

import pytest
import torch
from tests.helpers import TARGET_VOCAB, B, S, T, assert_close, bart, problem, unchecked

from qkv.errors import LengthError, VocabularyError
from qkv.generation.state import Decodable
from qkv.models.bart import Bart, BartConfig


def test_shapes_and_the_head():
    model, (source, target, mask) = bart(), problem()
    hidden = model.hidden(source, target, source_mask=mask)
    logits = model(source, target, source_mask=mask)
    assert (hidden.shape, logits.shape) == ((B, T, 22), (B, T, TARGET_VOCAB))
    assert torch.equal(logits, model.head(hidden))
    assert model.encode(source, mask).shape == (B, S, 22)
    assert isinstance(model, Decodable)


def test_it_is_embedding_positions_norm_stack():
    model, (source, target, _) = bart(), problem()
    tokens = model.embedding.weight
    # Two rows of each table of positions are never read.
    places = [
        positions.table.weight[2:] for positions in (model.source_positions, model.target_positions)
    ]
    memory = model.encoder(model.source_norm(tokens[source] + places[0][:S]))
    hidden = model.decoder(model.target_norm(tokens[target] + places[1][:T]), memory)
    assert_close(model.hidden(source, target), hidden)


def test_the_defaults_are_the_large_model():
    with torch.device("meta"):
        model = Bart(BartConfig())
    assert sum(p.numel() for p in model.parameters()) == 406_291_456
    assert model.head.weight is model.embedding.weight


def test_without_head_it_returns_hidden_states():
    model, (source, target, _) = bart(), problem()
    hidden = model.hidden(source, target)
    assert torch.equal(model.without_head()(source, target), hidden)


def test_it_starts_with_small_matrices():
    sizes = {"n_positions": 29, "d_model": 66, "n_heads": 3, "d_ff": 97}
    model = Bart(BartConfig(vocab_size=TARGET_VOCAB, **sizes))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
    source, target, _ = problem()
    assert model.eval()(source, target).std().item() < 0.5  # no token is much likelier


def test_what_is_too_long_or_unknown_is_refused():
    model, (source, target, _) = bart(n_positions=T), problem()
    model(source, target)
    longer = torch.zeros(B, T + 1).long()
    for inputs in ((longer, target), (source, longer)):
        with unchecked(), pytest.raises(LengthError, match=f"0 to {T - 1} were learned"):
            model(*inputs)
    state = model.start(source)
    model.step(target, state)
    with unchecked(), pytest.raises(LengthError, match=f"0 to {T - 1} were learned"):
        model.step(target[:, :1], state)
    with pytest.raises(VocabularyError, match="ids from 1 to 23, but"):
        model(source, target.index_fill(1, torch.tensor([3]), 23))

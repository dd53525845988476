"""A future or a padding token changes nothing; left- == right-padded."""

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import (
    MODELS,
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
)

build = cache(lambda name: MODELS[name]())
build_rnn = cache(
    lambda score, local, decoder, cell: rnn(score=score, local=local, decoder=decoder, cell=cell)
)
every_model = pytest.mark.parametrize("name", list(MODELS))
every_rnn = pytest.mark.parametrize(
    ("score", "local", "decoder", "cell"),
    list(
        itertools.product(
            SCORES, (None, "local-m", "local-p"), ("bahdanau", "luong"), ("gru", "lstm")
        )
    ),
)
lengths_of = lambda longest: st.lists(st.integers(1, longest), min_size=B, max_size=B)  # noqa: E731


def real_logits(model, source, target, source_mask, target_mask):
    """The logits of real tokens, in one row's order whatever the padding."""
    with torch.no_grad():
        return model(source, target, source_mask=source_mask, target_mask=target_mask)[target_mask]


@every_model
@settings(max_examples=5)
@given(at=st.integers(1, T - 1), seed=st.integers(0, 9))
def test_a_future_token_changes_nothing(name, at, seed):
    model, (source, target, mask) = build(name), problem(seed)
    other = target.clone()
    other[:, at:] = (other[:, at:] + 1) % TARGET_VOCAB
    before, after = (model(source, x, source_mask=mask) for x in (target, other))
    assert torch.equal(before[:, :at], after[:, :at])
    assert (before[:, at:] != after[:, at:]).any()


@every_model
@settings(max_examples=5)
@given(source_lengths=lengths_of(S), target_lengths=lengths_of(T), left=st.booleans())
def test_a_padding_token_changes_nothing(name, source_lengths, target_lengths, left):
    model, (source, target, _) = build(name), problem()
    source_mask, target_mask = right_mask(source_lengths, S), right_mask(target_lengths, T)
    if left:
        (source, source_mask), (target, target_mask) = (
            to_left(source, source_mask),
            to_left(target, target_mask),
        )
    other_source = torch.where(source_mask, source, (source + 1) % SOURCE_VOCAB)
    other_target = torch.where(target_mask, target, (target + 1) % TARGET_VOCAB)
    masks = (source_mask, target_mask)
    assert torch.equal(
        real_logits(model, source, target, *masks),
        real_logits(model, other_source, other_target, *masks),
    )


@every_model
@pytest.mark.parametrize("left", [False, True])
def test_padding_embeddings_have_no_gradient(name, left):
    model, (source, target, source_mask) = build(name), problem()
    target_mask = right_mask([4, T, 2], T)
    source = (source % (SOURCE_VOCAB - 1) + 1).where(source_mask, torch.tensor(0))
    target = (target % (TARGET_VOCAB - 1) + 1).where(target_mask, torch.tensor(0))
    if left:
        source, source_mask = to_left(source, source_mask)
        target, target_mask = to_left(target, target_mask)
    logits = model(source, target, source_mask=source_mask, target_mask=target_mask)
    tables = {n: p for n, p in model.named_parameters() if n.endswith("embedding.weight")}
    gradients = torch.autograd.grad(logits[target_mask].square().sum(), list(tables.values()))
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert (gradient[0] == 0).all()
        assert gradient[1:].any()


@every_model
@settings(max_examples=5)
@given(source_lengths=lengths_of(S), target_lengths=lengths_of(T), seed=st.integers(0, 9))
def test_left_padded_equals_right_padded(name, source_lengths, target_lengths, seed):
    model, (source, target, _) = build(name), problem(seed)
    source_mask, target_mask = right_mask(source_lengths, S), right_mask(target_lengths, T)
    right = real_logits(model, source, target, source_mask, target_mask)
    left_source, left_source_mask = to_left(source, source_mask)
    left_target, left_target_mask = to_left(target, target_mask)
    for tokens, mask in ((target, target_mask), (left_target, left_target_mask)):
        assert_close(real_logits(model, left_source, tokens, left_source_mask, mask), right)


@every_rnn
def test_left_padded_equals_right_padded_for_every_score(score, local, decoder, cell):
    model = build_rnn(score, local, decoder, cell)
    source, target, source_mask = problem()
    target_mask = right_mask([4, T, 2], T)
    right = real_logits(model, source, target, source_mask, target_mask)
    source, source_mask = to_left(source, source_mask)
    target, target_mask = to_left(target, target_mask)
    assert_close(real_logits(model, source, target, source_mask, target_mask), right)


@every_rnn
def test_padded_equals_single_for_every_score(score, local, decoder, cell):
    model = build_rnn(score, local, decoder, cell)
    source, target, mask = problem()
    together = model(source, target, source_mask=mask)
    for row in range(B):
        alone = model(source[row : row + 1, mask[row]], target[row : row + 1])
        assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("name", ["post-norm", "pre-norm"])
def test_encoder_padding_changes_no_memory(name):
    model, (source, _, mask) = build(name), problem()
    other = torch.where(mask, source, (source + 1) % SOURCE_VOCAB)
    assert torch.equal(model.encode(source, mask)[mask], model.encode(other, mask)[mask])


@pytest.mark.parametrize("name", ["post-norm", "pre-norm", "rotary", "alibi"])
def test_a_row_of_padding_alone_is_no_number_that_spreads(name):
    """It has no meaning, but a batch that holds one must still give its other rows gradients."""
    model, (source, target, mask) = build(name), problem()
    mask[1] = False
    target_mask = right_mask([4, 0, T], T)
    logits = model(source, target, source_mask=mask, target_mask=target_mask)
    assert logits.isfinite().all()
    used = [p for n, p in model.named_parameters()]
    gradients = torch.autograd.grad(logits.square().sum(), used)
    assert all(gradient.isfinite().all() for gradient in gradients)

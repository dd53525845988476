"""cached == uncached; chunked == whole; reorder == recompute; rewind == never stepped.

For each model: Transformers with every kind of position, and recurrent ones.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import MODELS, TARGET_VOCAB, B, S, T, assert_close, problem, right_mask

from qkv.errors import LengthError

build = cache(lambda name: MODELS[name]())
every_model = pytest.mark.parametrize("name", list(MODELS))
chunkings = st.lists(st.integers(1, T), min_size=1, max_size=T).map(
    lambda sizes: [n for i, n in enumerate(sizes) if sum(sizes[: i + 1]) <= T]
)
rows = st.lists(st.integers(0, B - 1), min_size=1, max_size=5)


def step_all(model, state, chunks):
    with torch.no_grad():
        return torch.cat([model.step(chunk, state) for chunk in chunks], 1)


def whole(model, source, target, source_mask, target_mask=None):
    with torch.no_grad():
        return model(source, target, source_mask=source_mask, target_mask=target_mask)


@every_model
def test_cached_equals_uncached_token_by_token(name):
    model, (source, target, mask) = build(name), problem()
    state = model.start(source, mask)
    logits = step_all(model, state, target.split(1, 1))
    assert state.length == T
    assert_close(logits, whole(model, source, target, mask))


@every_model
@settings(max_examples=6)
@given(chunks=chunkings, seed=st.integers(0, 9))
def test_chunked_equals_whole(name, chunks, seed):
    model, (source, target, mask) = build(name), problem(seed)
    chunks = [*chunks, T - sum(chunks)] if sum(chunks) < T else chunks
    logits = step_all(model, model.start(source, mask), target.split(chunks, 1))
    assert_close(logits, whole(model, source, target, mask))


@every_model
@settings(max_examples=6)
@given(kept=rows, at=st.integers(0, T - 1), seed=st.integers(0, 9))
def test_reorder_equals_recompute(name, kept, at, seed):
    model, (source, target, mask) = build(name), problem(seed)
    kept = torch.tensor(kept)
    state = model.start(source, mask)
    if at:
        step_all(model, state, [target[:, :at]])
    state.reorder(kept)
    new = torch.randint(TARGET_VOCAB, (len(kept), T - at))  # repeated rows go on differently
    logits = step_all(model, state, new.split(1, 1))
    target = torch.cat((target[kept, :at], new), 1)
    assert_close(logits, whole(model, source[kept], target, mask[kept])[:, at:])


@every_model
@settings(max_examples=6)
@given(lengths=st.tuples(st.integers(0, T), st.integers(0, T)).map(sorted), seed=st.integers(0, 9))
def test_rewind_equals_never_stepped(name, lengths, seed):
    model, (source, target, mask) = build(name), problem(seed)
    back_to, stepped = lengths
    state = model.start(source, mask)
    if stepped:
        step_all(model, state, [target[:, :stepped]])
    state.rewind(back_to)
    assert state.length == back_to
    new = torch.randint(TARGET_VOCAB, (B, 3))
    logits = step_all(model, state, new.split(2, 1))
    target = torch.cat((target[:, :back_to], new), 1)
    assert_close(logits, whole(model, source, target, mask)[:, back_to:])


operations = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 3)),
        st.tuples(st.just("padded step"), st.integers(1, 3)),
        st.tuples(st.just("reorder"), rows),
        st.tuples(st.just("rewind"), st.floats(0, 1)),
    ),
    min_size=3,
    max_size=8,
)


@every_model
@settings(max_examples=12)
@given(program=operations, seed=st.integers(0, 9))
def test_any_program_of_steps_equals_recomputing(name, program, seed):
    """Padding may stand anywhere among the steps: at the left of prefixes and between them."""
    model, (source, _, source_mask) = build(name), problem(seed)
    torch.manual_seed(seed)
    state = model.start(source, source_mask)
    target, target_mask = torch.empty(B, 0).long(), torch.empty(B, 0).bool()
    for operation, argument in program:
        if operation == "reorder":
            kept = torch.tensor(argument) % len(target)
            state.reorder(kept)
            source, source_mask = source[kept], source_mask[kept]
            target, target_mask = target[kept], target_mask[kept]
        elif operation == "rewind":
            length = int(argument * target.shape[1])
            state.rewind(length)
            target, target_mask = target[:, :length], target_mask[:, :length]
        else:
            tokens = torch.randint(TARGET_VOCAB, (len(target), argument))
            real = torch.ones_like(tokens).bool()
            if operation == "padded step":
                real = torch.rand(tokens.shape) < 0.5
            with torch.no_grad():
                given_mask = real if operation == "padded step" else None
                logits = model.step(tokens, state, given_mask)
            target = torch.cat((target, tokens), 1)
            target_mask = torch.cat((target_mask, real), 1)
            expected = whole(model, source, target, source_mask, target_mask)[:, -argument:]
            torch.testing.assert_close(logits[real], expected[real], rtol=1e-11, atol=1e-11)
        assert state.length == target.shape[1]


@every_model
def test_batched_equals_single(name):
    model, (source, target, mask) = build(name), problem()
    lengths = [4, T, 2]
    together = whole(model, source, target, mask, right_mask(lengths, T))
    for row, length in enumerate(lengths):
        alone = whole(model, source[row : row + 1, mask[row]], target[row : row + 1, :length], None)
        assert_close(together[row : row + 1, :length], alone)


@every_model
@pytest.mark.parametrize("length", [-1, T + 1])
def test_rewinding_beyond_what_was_stepped_is_refused(name, length):
    model, (source, target, mask) = build(name), problem()
    state = model.start(source, mask)
    step_all(model, state, [target])
    with pytest.raises(LengthError, match=f"cannot rewind to length {length}: .* holds {T}"):
        state.rewind(length)


@every_model
def test_two_requests_share_a_model_and_no_state(name):
    model, (source, target, mask) = build(name), problem()
    one, two = model.start(source, mask), model.start(source[:1], None)
    first = step_all(model, one, [target[:, :3]])
    step_all(model, two, [target[:1, :S]])
    rest = step_all(model, one, [target[:, 3:]])
    assert_close(torch.cat((first, rest), 1), whole(model, source, target, mask))

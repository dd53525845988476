"""cached == uncached; chunked == whole; reordered == recomputed; rewound == never stepped.

And joined == apart.

For each model: Transformers with every kind of position, and recurrent ones.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
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
        st.tuples(st.just("join"), st.integers(0, 4)),
    ),
    min_size=3,
    max_size=8,
)


def padded(tensor, length, *, left=False):
    """Pad the columns with zeros, or False."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, (missing, 0) if left else (0, missing))


def below(one, other, *, left):
    """The rows of both, the shorter ones padded."""
    length = max(one.shape[1], other.shape[1])
    return torch.cat((padded(one, length, left=left), padded(other, length, left=left)))


@every_model
@settings(max_examples=12)
@given(program=operations, seed=st.integers(0, 9))
def test_any_program_of_steps_equals_recomputing(name, program, seed):
    """Padding may stand anywhere among the steps: at the left of prefixes and between them."""
    model, (source, _, source_mask) = build(name), problem(seed)
    torch.manual_seed(seed)
    state, start = model.start(source, source_mask), 0  # columns before which no rewind goes
    target, target_mask = torch.empty(B, 0).long(), torch.empty(B, 0).bool()
    for operation, argument in program:
        if operation == "reorder":
            kept = torch.tensor(argument) % len(target)
            state.reorder(kept)
            source, source_mask = source[kept], source_mask[kept]
            target, target_mask = target[kept], target_mask[kept]
        elif operation == "rewind":
            length = int(argument * state.length)
            state.rewind(length)
            target, target_mask = target[:, : start + length], target_mask[:, : start + length]
        elif operation == "join":
            new, new_mask = source[:2, : S - 2], None if argument % 2 else source_mask[:2, : S - 2]
            tokens = torch.randint(TARGET_VOCAB, (len(new), argument))
            other = model.start(new, new_mask)
            if argument:
                step_all(model, other, [tokens])
            both = min(target.shape[1] - start, argument)
            state.join(other)
            new_mask = torch.ones_like(new).bool() if new_mask is None else new_mask
            source = below(source, new, left=False)
            source_mask = below(source_mask, new_mask, left=False)
            target_mask = below(target_mask, torch.ones_like(tokens).bool(), left=True)
            target = below(target, tokens, left=True)
            start = target.shape[1] - both
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
        assert state.length == target.shape[1] - start


@every_model
@settings(max_examples=6)
@given(lengths=st.tuples(st.integers(0, T), st.integers(0, T)), seed=st.integers(0, 9))
def test_joined_equals_apart(name, lengths, seed):
    """The later request joins with another source and another number of tokens so far."""
    model, (source, target, mask) = build(name), problem(seed)
    halves = [
        (source[:1], mask[:1], target[:1]),
        (source[1:, : S - 1], mask[1:, : S - 1], target[1:]),
    ]
    states, apart = [], []
    new = torch.randint(TARGET_VOCAB, (B, 3))
    for (one, one_mask, tokens), length, more in zip(
        halves, lengths, new.split([1, B - 1]), strict=True
    ):
        for kept in (states, apart):
            state = model.start(one, one_mask)
            if length:
                step_all(model, state, [tokens[:, :length]])
            kept.append(state)
        apart[-1] = step_all(model, apart[-1], [more[:, :2], more[:, 2:]])
    state, other = states
    state.join(other)
    assert state.length == min(lengths)
    assert_close(step_all(model, state, new.split([2, 1], 1)), torch.cat(apart))


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

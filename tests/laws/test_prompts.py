"""Reading a prompt, then stepping, equals one pass over all: causal models, windows among them."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import (
    PROMPTED,
    TARGET_VOCAB,
    B,
    T,
    assert_close,
    llama,
    right_mask,
    to_left,
)

from qkv.attention.record import record_attention
from qkv.blocks.rotary_scaling import LinearScaling, YaRNScaling
from qkv.generation.greedy import greedy

N = 11  # longest prompt

MODELS = {
    **PROMPTED,
    "one window": lambda: llama(window=4, rotary_scaling=LinearScaling(factor=3.0)),
    "window above": lambda: llama(
        window=3,
        first_window_layer=1,
        rotary_scaling=YaRNScaling(factor=4.0, original_length=16, many_turns=2.0),
    ),
}
build = cache(lambda name: MODELS[name]().model)
every_model = pytest.mark.parametrize("name", list(MODELS))
prompt_lengths = st.lists(st.integers(0, N), min_size=B, max_size=B)


def problem(lengths, seed=0):
    """Prompts padded on the left, their mask, and what follows them."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(TARGET_VOCAB, (B, N), generator=generator)
    target = torch.randint(TARGET_VOCAB, (B, T), generator=generator)
    return *to_left(prompts, right_mask(lengths, N)), target


def whole(model, prompts, mask, target):
    """The logits of the target in one pass."""
    masks = torch.cat((mask, torch.ones(len(target), target.shape[1], dtype=torch.bool)), 1)
    with torch.no_grad():
        return model(torch.cat((prompts, target), 1), token_mask=masks)[:, prompts.shape[1] :]


def to_right(tokens, mask):
    order = (~mask).long().argsort(dim=1, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)


@every_model
@settings(max_examples=8)
@given(lengths=prompt_lengths, at=st.integers(1, T - 1), left=st.booleans(), seed=st.integers(0, 9))
def test_a_prompt_padded_on_either_side_and_steps_equal_one_pass(name, lengths, at, left, seed):
    model, (prompts, mask, target) = build(name), problem(lengths, seed)
    given_prompts = (prompts, mask) if left else to_right(prompts, mask)
    with torch.no_grad():
        state = model.start(*given_prompts)
        assert state.length == 0
        logits = [model.step(tokens, state) for tokens in target.split([at, T - at], 1)]
    assert state.length == T
    assert_close(torch.cat(logits, 1), whole(model, prompts, mask, target))


@every_model
@settings(max_examples=8)
@given(lengths=prompt_lengths, cut=st.integers(0, N), seed=st.integers(0, 9))
def test_a_prompt_in_pieces_equals_the_whole_prompt(name, lengths, cut, seed):
    model, (prompts, mask, target) = build(name), problem(lengths, seed)
    with torch.no_grad():
        state = model.start(prompts[:, :cut], mask[:, :cut])
        if cut < N:
            model.step(prompts[:, cut:], state, mask[:, cut:])
        logits = model.step(target, state)
    assert_close(logits, whole(model, prompts, mask, target))


@every_model
@settings(max_examples=8)
@given(
    lengths=prompt_lengths,
    kept=st.lists(st.integers(0, B - 1), min_size=1, max_size=5),
    back_to=st.integers(0, T),
    seed=st.integers(0, 9),
)
def test_reordered_and_rewound_states_keep_their_prompts(name, lengths, kept, back_to, seed):
    model, (prompts, mask, target) = build(name), problem(lengths, seed)
    kept = torch.tensor(kept)
    new = torch.randint(TARGET_VOCAB, (len(kept), 3))
    with torch.no_grad():
        state = model.start(prompts, mask)
        model.step(target, state)
        state.reorder(kept)
        state.rewind(back_to)
        logits = torch.cat([model.step(tokens, state) for tokens in new.split([2, 1], 1)], 1)
    target = torch.cat((target[kept, :back_to], new), 1)
    assert_close(logits, whole(model, prompts[kept], mask[kept], target)[:, back_to:])


@every_model
def test_rows_padded_on_either_side_equal_rows_alone(name):
    model, (tokens, mask, _) = build(name), problem([N, 4, 7])
    with torch.no_grad():
        right, right_padding = to_right(tokens, mask)
        batches = [model(tokens, token_mask=mask)[mask]]
        batches.append(model(right, token_mask=right_padding)[right_padding])
        alone = torch.cat([model(tokens[row : row + 1, mask[row]])[0] for row in range(B)])
        unmasked = model(right)[right_padding]  # later tokens are seen by none
    for together in (*batches, unmasked):
        assert_close(together, alone)


@every_model
def test_without_a_prompt_decoding_begins_at_once(name):
    model, (_, _, target) = build(name), problem([N, 4, 7])
    with torch.no_grad():
        state = model.start(target[:, :0])
        assert_close(model.step(target, state), model(target))


@every_model
def test_a_future_token_changes_nothing(name):
    model, (tokens, _, _) = build(name), problem([N] * B)
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 1) % TARGET_VOCAB
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any()


@every_model
def test_greedy_goes_on_as_one_pass_over_the_prompt_says(name):
    model, (prompts, mask, _) = build(name), problem([N, 4, 7])
    last = 5
    right, padding = to_right(prompts, mask)
    answers = greedy(model, right, token_mask=padding, start=last, stop=-1, max_length=6)
    for row in range(B):
        ids = torch.cat((prompts[row, mask[row]], torch.tensor([last])))[None]
        for _ in range(6):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
        assert ids[0, -6:].tolist() == answers[row].tolist()


@every_model
def test_the_record_of_a_prompt_and_steps_is_that_of_one_pass(name):
    model, (prompts, mask, target) = build(name), problem([N, N, N])
    with record_attention(model) as once:
        whole(model, prompts, mask, target)
    with record_attention(model) as parts, torch.no_grad():
        state = model.start(prompts)
        for tokens in target.split([3, 1, 1, 2], 1):
            model.step(tokens, state)
    assert set(parts) == set(once) == {f"stack.blocks.{layer}.self_attention" for layer in range(2)}
    for module, weights in once.items():
        assert_close(parts[module], weights)
        sums = weights.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)
        assert (weights.triu(1) == 0).all()

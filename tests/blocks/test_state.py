"""What a decoding state hands on; its laws are in tests/laws/test_state.py."""

import pytest
import torch

from qkv.blocks.state import DecodingState
from qkv.errors import LengthError


def real(*rows):
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def test_without_padding_there_is_no_mask():
    state = DecodingState(2)
    assert len(state.caches) == 2
    mask, positions = state.advance(torch.zeros(2, 3).long())
    assert (mask, positions.tolist(), state.length) == (None, [0, 1, 2], 3)
    mask, positions = state.advance(torch.zeros(2, 2).long())
    assert (mask, positions.tolist(), state.length) == (None, [3, 4], 5)


def test_padding_shifts_no_position_and_stays_masked():
    state = DecodingState(0)
    mask, positions = state.advance(torch.zeros(2, 3).long(), real("..x", "xxx"))
    assert torch.equal(mask[:, 0, 0], real("..x", "xxx"))
    assert positions[0, 2] == 0
    assert positions[1].tolist() == [0, 1, 2]
    mask, positions = state.advance(torch.zeros(2, 2).long())
    assert torch.equal(mask[:, 0, 0], real("..xxx", "xxxxx"))
    assert positions.tolist() == [[1, 2], [3, 4]]


def test_padding_may_come_after_tokens_that_had_none():
    state = DecodingState(0)
    state.advance(torch.zeros(2, 1).long())
    mask, positions = state.advance(torch.zeros(2, 2).long(), real(".x", "xx"))
    assert torch.equal(mask[:, 0, 0], real("x.x", "xxx"))
    assert positions[:, 1].tolist() == [1, 2]


def test_reorder_and_rewind_reach_everything():
    memory, memory_mask = torch.randn(3, 5, 7), real("xxxxx", "xxx..", "x....")
    state = DecodingState(0, memory, memory_mask)
    state.advance(torch.zeros(3, 2).long(), real("xx", ".x", "xx"))
    rows = torch.tensor([1, 1, 2, 0])
    state.reorder(rows)
    assert torch.equal(state.memory, memory[rows])
    assert torch.equal(state.memory_mask[:, 0, 0], memory_mask[rows])
    state.rewind(1)
    mask, positions = state.advance(torch.zeros(4, 1).long())
    assert torch.equal(mask[:, 0, 0], real(".x", ".x", "xx", "xx"))
    assert positions.flatten().tolist() == [0, 0, 1, 1]


def test_a_prompt_counts_for_positions_and_is_never_forgotten():
    state = DecodingState(0)
    state.advance(torch.zeros(2, 3).long(), real(".xx", "xxx"))
    state.begin()
    assert state.length == 0
    state.advance(torch.zeros(2, 2).long())
    assert state.length == 2
    state.rewind(0)
    mask, positions = state.advance(torch.zeros(2, 1).long())
    assert torch.equal(mask[:, 0, 0], real(".xxx", "xxxx"))
    assert positions.tolist() == [[2], [3]]
    with pytest.raises(LengthError, match="cannot rewind to length -1: the state holds 1"):
        state.rewind(-1)

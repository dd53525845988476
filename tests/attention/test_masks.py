import pytest
import torch
from tests.helpers import unchecked

from qkv.attention.core import attention, attention_weights
from qkv.attention.masks import (
    attention_mask,
    causal_mask,
    check_mask,
    combine_masks,
    positions_from_mask,
    real_keys,
    token_positions,
)
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.multiplicative import DotAttention
from qkv.errors import ShapeError


def rows(mask):
    return ["".join("1" if cell else "." for cell in row) for row in mask]


def test_causality_is_aligned_to_the_last_key():
    assert rows(causal_mask(3, 5)) == ["111..", "1111.", "11111"]
    assert rows(causal_mask(3, 3)) == ["1..", "11.", "111"]
    assert rows(causal_mask(3, 2)) == ["..", "1.", "11"]  # the first query precedes all keys


def test_token_and_causal_masks_meet():
    tokens = torch.tensor([[True, True, False], [False, True, True]])
    mask = combine_masks(attention_mask(tokens), causal=True, n_queries=2, n_keys=3)
    assert mask.shape == (2, 1, 2, 3)
    assert rows(mask[0, 0]) == ["11.", "11."]
    assert rows(mask[1, 0]) == [".1.", ".11"]
    assert combine_masks(None, causal=False, n_queries=2, n_keys=3) is None
    assert combine_masks(None, causal=True, n_queries=1, n_keys=3) is None


def test_positions_count_real_tokens():
    tokens = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]]).bool()
    positions = positions_from_mask(tokens)
    assert positions[0, 2:].tolist() == [0, 1, 2]
    assert positions[1, :3].tolist() == [0, 1, 2]
    assert positions[2, [1, 4]].tolist() == [0, 1]
    assert (positions >= 0).all()
    assert token_positions(torch.ones(2, 5).long(), None).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(token_positions(tokens.long(), tokens), positions)


@pytest.mark.parametrize("token_mask", [torch.ones(2, 3).bool(), torch.ones(2, 5)])
def test_positions_need_a_token_mask_of_the_tokens(token_mask):
    with unchecked(), pytest.raises(ShapeError, match=r"expected a boolean \(2, 5\), True"):
        token_positions(torch.ones(2, 5).long(), token_mask)


def test_a_key_is_real_if_any_head_and_query_may_attend_to_it():
    mask = torch.zeros(2, 3, 5, 7, dtype=torch.bool)
    mask[0, 1, 2, 3] = mask[1, 0, 4, 6] = mask[1, 2, 0, 0] = True
    assert rows(real_keys(mask, (2, 3, 5, 7))) == ["...1...", "1.....1"]


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7), (2, 3, 5, 7), (2, 1, 1, 7), (1, 1)])
def test_whatever_broadcasts_is_a_mask(shape):
    check_mask(torch.ones(shape, dtype=torch.bool), (2, 3, 5, 7))


@pytest.mark.parametrize(
    "shape", [(5,), (7, 5), (2, 7), (3, 2, 5, 7), (1, 2, 3, 5, 7), (2, 3, 5, 1, 7)]
)
def test_whatever_does_not_is_refused(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    given = str(tuple(shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ShapeError, match=rf"shape {given}, .* = \(2, 3, 5, 7\); a token_mask"):
        check_mask(mask, (2, 3, 5, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_a_mask_of_numbers_is_refused(dtype):
    with pytest.raises(ShapeError, match=f"dtype {dtype}; expected torch.bool, True = may attend"):
        check_mask(torch.ones(5, 7, dtype=dtype), (2, 3, 5, 7))


@pytest.mark.parametrize("tokens", [torch.ones(2, 7), torch.ones(7, dtype=torch.bool)])
def test_a_token_mask_is_boolean_and_has_two_axes(tokens):
    given = rf"dtype {tokens.dtype} and shape \({', '.join(map(str, tokens.shape))},?\)"
    with unchecked(), pytest.raises(ShapeError, match=rf"{given}; .* True = a real token"):
        attention_mask(tokens)


QUERIES, KEYS = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7)


@pytest.mark.parametrize(
    "call",
    [
        lambda mask: attention(QUERIES, KEYS, KEYS, mask=mask),
        lambda mask: attention_weights(QUERIES, KEYS, mask=mask),
        lambda mask: MultiHeadAttention(7, 1)(QUERIES[:, 0], KEYS[:, 0], mask=mask),
        lambda mask: DotAttention(7, 7)(QUERIES[:, 0], KEYS[:, 0], mask=mask),
    ],
    ids=["attention", "attention_weights", "MultiHeadAttention", "DotAttention"],
)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(5, 11), "dtype torch.float32; expected torch.bool"),
        (torch.ones(2, 11, dtype=torch.bool), r"shape \(2, 11\), .* \(2, [13], 5, 11\)"),
    ],
    ids=["numbers", "token mask as it is"],
)
def test_every_attention_refuses_what_is_no_mask(call, mask, message):
    with unchecked(), pytest.raises(ShapeError, match=message):
        call(mask)

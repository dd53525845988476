"""Rollout: shares that sum to one, layer after layer."""

import re

import pytest
import torch
from tests.helpers import unchecked

from qkv.attention.rollout import attention_rollout
from qkv.errors import ShapeError

B, H, L = 2, 3, 5


def layers(n):
    return [torch.randn(B, H, L, L, dtype=torch.float64).softmax(-1) for _ in range(n)]


def test_the_shares_sum_to_one():
    share = attention_rollout(layers(7))
    assert share.shape == (B, L, L)
    torch.testing.assert_close(share.sum(-1), torch.ones(B, L, dtype=torch.float64))
    assert (share >= 0).all()


def test_two_layers_by_hand():
    first, second = layers(2)
    expected = torch.zeros(B, L, L, dtype=torch.float64)
    one, two = ((w.sum(1) / H + torch.eye(L)) / 2 for w in (first, second))
    for b in range(B):
        for out in range(L):
            for middle in range(L):
                for source in range(L):
                    expected[b, out, source] += two[b, out, middle] * one[b, middle, source]
    torch.testing.assert_close(attention_rollout([first, second]), expected)
    assert not torch.allclose(attention_rollout([second, first]), expected)


def test_who_looks_at_itself_alone_stays_itself():
    alone = torch.eye(L).expand(B, H, L, L)
    assert torch.equal(attention_rollout([alone] * 3), torch.eye(L).expand(B, L, L))


def test_causal_layers_give_nothing_to_the_future():
    causal = [(w.tril() / w.tril().sum(-1, keepdim=True)) for w in layers(3)]
    assert torch.equal(attention_rollout(causal).triu(1), torch.zeros(B, L, L).double())


@pytest.mark.parametrize(
    "shapes", [[], [(B, H, L, L + 2)], [(H, L, L)], [(B, H, L, L), (B, H, L + 2, L + 2)]]
)
def test_what_is_no_self_attention_is_refused(shapes):
    weights = [torch.zeros(shape) for shape in shapes]
    message = re.escape(f"weights have shapes {shapes}; expected")
    with unchecked(), pytest.raises(ShapeError, match=message):
        attention_rollout(weights)

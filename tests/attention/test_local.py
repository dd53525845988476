"""Local attention (Luong et al. 2015, section 3.2) by hand."""

import math

import pytest
import torch
from tests.helpers import assert_close, unchecked

from qkv.attention.local import LocalAttention
from qkv.attention.masks import attention_mask
from qkv.attention.multiplicative import DotAttention
from qkv.errors import ConfigError


def local(kind, window):
    return LocalAttention(DotAttention(1, 1), 1, window=window, kind=kind).double()


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[None, :, None]


def weights(attention, query, memory, mask=None, position=None):
    positions = None if position is None else torch.tensor([[position]])
    return attention.weights(column(query), memory, mask, positions)[0, 0, 0]


def test_local_m_attends_around_its_own_place():
    # window 1 at t = 2: keys 1 to 3, scores ln 1, ln 2, ln 3: weights 1/6, 2/6, 3/6
    memory = column(9, 0, math.log(2), math.log(3), 9)
    found = weights(local("local-m", 1), 1, memory, position=2)
    assert_close(found, torch.tensor([0, 1, 2, 3, 0]).double() / 6)


def test_local_m_counts_the_queries_where_no_positions_are_given():
    attention = local("local-m", 1)
    found = attention.weights(column(1, 1, 1), column(0, 0, 0, 0, 0), None, None)[0, 0]
    # places 0 and 1; 0, 1 and 2; 1, 2 and 3, all alike
    expected = torch.tensor([[3, 3, 0, 0, 0], [2, 2, 2, 0, 0], [0, 2, 2, 2, 0]]).double() / 6
    assert_close(found, expected)


def predict(attention, share):
    """Set W and v such that a query of 1 gives sigmoid(v tanh(W q)) = share."""
    attention.place[0].weight.data.fill_(1.0)
    logit = math.log(share / (1 - share))
    attention.place[2].weight.data.fill_(logit / math.tanh(1.0))
    return attention


def test_local_p_attends_around_a_predicted_place_with_a_gaussian():
    # S = 4, sigmoid = 0.7: p = 2.8. Window 2: keys 1, 2, 3, equal scores: 1/3 each.
    # sigma = 2 / 2 = 1: -(s - 2.8)^2 / 2 = -1.62, -0.32, -0.02
    found = weights(predict(local("local-p", 2), 0.7), 1, column(0, 0, 0, 0))
    gaussian = [0, math.exp(-1.62), math.exp(-0.32), math.exp(-0.02)]
    assert_close(found, torch.tensor(gaussian, dtype=torch.float64) / 3)


@pytest.mark.parametrize("left", [False, True])
def test_local_p_counts_real_tokens_only(left):
    # S = 4 of 7 keys: the same weights as without padding, at the places of the real keys
    attention = predict(local("local-p", 2), 0.7)
    real = torch.arange(7) >= 3 if left else torch.arange(7) < 4
    memory = torch.where(real, 0, 9).double()[None, :, None]
    found = weights(attention, 1, memory, mask=attention_mask(real[None]))
    assert (found[~real] == 0).all()
    assert_close(found[real], weights(attention, 1, column(0, 0, 0, 0)))


def test_the_predicted_place_has_a_gradient():
    attention = LocalAttention(DotAttention(5, 5), 5, window=3, kind="local-p")
    attention(torch.randn(2, 3, 5), torch.randn(2, 11, 5)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in attention.place.parameters())


def test_an_unknown_kind_is_refused():
    with (
        unchecked(),
        pytest.raises(ConfigError, match="'local-q'; expected 'local-m' or 'local-p'"),
    ):
        LocalAttention(DotAttention(5, 5), 5, window=2, kind="local-q")


def test_a_window_is_at_least_one_place():
    with pytest.raises(ConfigError, match="a window of 0 positions; expected at least 1"):
        LocalAttention(DotAttention(5, 5), 5, window=0, kind="local-m")

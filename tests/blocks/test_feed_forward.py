import math

import pytest
import torch
from tests.helpers import assert_close, randomized

from qkv.blocks.config import FEED_FORWARD_KINDS
from qkv.blocks.feed_forward import GATES, FeedForward
from qkv.errors import ConfigError


def by_hand(kind, x):
    """down = 0.5, up = 3 (or 1 where nothing gates), gate = 2."""
    network = FeedForward(1, 1, kind=kind, bias=False).double()
    network.up.weight.data.fill_(1.0 if network.gate is None else 3.0)
    network.down.weight.data.fill_(0.5)
    if network.gate is not None:
        network.gate.weight.data.fill_(2.0)
    return network(torch.tensor([[x]], dtype=torch.float64)).item()


PHI_2 = (1 + math.erf(2 / math.sqrt(2))) / 2  # 0.9772: the normal distribution below 2
SIGMOID_2 = 1 / (1 + math.exp(-2))  # 0.8808
TANH_GELU_2 = 1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8))  # 2 * 0.5 * (1 + tanh)


@pytest.mark.parametrize(
    ("kind", "x", "expected"),
    [
        ("relu", 2.0, 0.5 * 2),
        ("relu", -2.0, 0.0),
        ("gelu", 2.0, 0.5 * 2 * PHI_2),
        ("gelu_tanh", 2.0, 0.5 * TANH_GELU_2),
        ("silu", 2.0, 0.5 * 2 * SIGMOID_2),
        ("swiglu", 1.0, 0.5 * (2 * SIGMOID_2) * 3),  # silu(2 * 1) * (3 * 1), times 0.5
        ("geglu", 1.0, 0.5 * (2 * PHI_2) * 3),
        ("geglu_tanh", 1.0, 0.5 * TANH_GELU_2 * 3),
    ],
)
def test_by_hand(kind, x, expected):
    assert by_hand(kind, x) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", FEED_FORWARD_KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_each_position_alone(kind, bias):
    network = randomized(FeedForward(5, 13, kind=kind, bias=bias))
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    out = network(x)
    assert out.shape == x.shape
    assert_close(torch.stack([network(x[:, place]) for place in range(7)], 1), out)
    matrices = 3 if kind in GATES else 2
    assert len(list(network.parameters())) == matrices * (2 if bias else 1)


@pytest.mark.parametrize("kind", FEED_FORWARD_KINDS)
def test_dropout_is_of_the_numbers_between_and_of_training_only(kind):
    torch.manual_seed(0)
    plain, dropped = (FeedForward(3, 997, kind=kind, dropout=p).eval() for p in (0.0, 0.4))
    dropped.load_state_dict(plain.state_dict())
    x, between = torch.randn(1, 3), []
    assert torch.equal(dropped(x), plain(x))
    for network in (plain, dropped):
        network.down.register_forward_pre_hook(lambda _, args: between.append(args[0]))
        network.train()(x)
    whole, kept = between
    gone = (kept == 0) & (whole != 0)
    assert 0.3 < gone.float().sum() / (whole != 0).sum() < 0.5
    torch.testing.assert_close(kept[~gone], whole[~gone] / 0.6, rtol=1e-4, atol=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="unknown feed-forward kind 'tanh'; expected one of relu"):
        FeedForward(3, 5, kind="tanh")

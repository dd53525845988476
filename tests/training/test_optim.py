import math

import pytest
import torch
from torch import nn

from qkv.errors import ConfigError
from qkv.training.optim import adamw, constant_rate, cosine_decay, linear_decay, noam


def test_noam_is_equation_3():
    rate = noam(d_model=16, warmup=100)
    assert rate(1) == pytest.approx(0.25 * 1e-3)
    assert rate(50) == pytest.approx(0.25 * 0.05)
    assert rate(100) == pytest.approx(0.25 * 0.1)  # the peak
    assert rate(400) == pytest.approx(0.25 * 0.05)


def test_linear():
    factor = linear_decay(warmup=4, steps=14)
    assert [factor(step) for step in (1, 2, 4, 5, 9, 14, 20)] == pytest.approx(
        [0.25, 0.5, 1.0, 0.9, 0.5, 0.0, 0.0]
    )


def test_cosine():
    factor = cosine_decay(warmup=2, steps=14, floor=0.1)
    third = 0.1 + 0.9 * 0.75  # cos(pi / 3) = 1 / 2
    assert [factor(step) for step in (1, 2, 6, 8, 14, 20)] == pytest.approx(
        [0.5, 1.0, third, 0.55, 0.1, 0.1]
    )
    assert cosine_decay(0, 3)(3) == pytest.approx(0.0, abs=1e-15)


def test_constant():
    assert [constant_rate(4)(step) for step in (1, 3, 4, 100)] == [0.25, 0.75, 1.0, 1.0]
    assert constant_rate()(1) == 1.0


@pytest.mark.parametrize("schedule", [linear_decay, cosine_decay])
@pytest.mark.parametrize(("warmup", "steps"), [(5, 5), (7, 5), (-1, 5)])
def test_a_warmup_that_does_not_fit_is_refused(schedule, warmup, steps):
    with pytest.raises(ConfigError, match=f"warmup is {warmup} of {steps} steps; expected 0 <="):
        schedule(warmup, steps)


def test_noam_without_warmup_is_refused():
    with pytest.raises(
        ConfigError, match="warmup is 0 steps; noam divides by it, expected at least 1"
    ):
        noam(16, 0)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.norm = nn.LayerNorm(3)
        self.matrix = nn.Linear(3, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.embedding.weight


def test_only_matrices_decay_and_each_parameter_is_updated_once():
    model = Tied()
    optimizer = adamw(model, weight_decay=0.3)
    decayed, others = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.matrix.weight)]
    assert decayed["weight_decay"] == 0.3
    assert {id(p) for p in others["params"]} == {
        id(p)
        for p in (
            model.embedding.weight,
            model.norm.weight,
            model.norm.bias,
            model.matrix.bias,
            model.head.bias,
        )
    }
    assert len(others["params"]) == 5
    assert others["weight_decay"] == 0.0
    assert optimizer.defaults["fused"] is True


def test_one_step_by_hand():
    # Adam's first step is rate * sign(gradient); the decay is rate * decay * weight beside it.
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 2.0)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5)
    (-3 * (model.weight + model.bias)).sum().backward()
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 + 0.1)
    assert model.bias.item() == pytest.approx(2.0 + 0.1)


def test_the_arguments_reach_the_optimizer():
    optimizer = adamw(nn.Linear(2, 3), learning_rate=0.2, betas=(0.5, 0.6), eps=0.7)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.2, (0.5, 0.6), 0.7)


def test_a_device_without_a_fused_kernel_gets_the_plain_one():
    assert not adamw(nn.Linear(2, 3, device=torch.device("meta"))).defaults["fused"]
    assert math.isclose(adamw(nn.Linear(2, 3)).defaults["lr"], 1e-3)

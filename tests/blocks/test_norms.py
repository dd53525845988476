import math

import pytest
import torch
from tests.helpers import assert_close, randomized

from qkv.blocks.norms import LayerNorm, RMSNorm, layer_norm, make_norm, rms_norm
from qkv.errors import ConfigError


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_layer_norm_by_hand():
    # mean 3, differences -2, -1, 0, 3, variance 14 / 4 = 3.5; with eps 0.5 the root is 2
    normed = layer_norm(vector(1, 2, 3, 6), vector(1, 1, 1, 1), eps=0.5)
    assert_close(normed, vector(-1, -0.5, 0, 1.5))
    scaled = layer_norm(vector(1, 2, 3, 6), vector(1, 2, 3, 4), vector(0, 10, 0, 0), eps=0.5)
    assert_close(scaled, vector(-1, 9, 0, 6))


def test_rms_norm_by_hand():
    # squares 1, 49, 25, 25: mean 25; with eps 11 the root is 6
    normed = rms_norm(vector(1, 7, 5, 5), vector(6, 6, 12, -6), eps=11.0)
    assert_close(normed, vector(1, 7, 10, -5))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_module_is_its_formula(bias):
    module, x = randomized(LayerNorm(7, eps=0.1, bias=bias)), torch.randn(3, 5, 7).double()
    assert_close(module(x), layer_norm(x, module.weight, module.bias, eps=0.1))
    assert (module.bias is not None) == bias


def test_rms_norm_module_is_its_formula():
    module, x = randomized(RMSNorm(7, eps=0.1)), torch.randn(3, 5, 7).double()
    assert_close(module(x), rms_norm(x, module.weight, eps=0.1))
    assert [name for name, _ in module.named_parameters()] == ["weight"]


def test_norms_by_name():
    assert isinstance(make_norm("rms", 7, eps=0.1, bias=True), RMSNorm)
    layer = make_norm("layer", 7, eps=0.1, bias=False)
    assert isinstance(layer, LayerNorm)
    assert (layer.eps, layer.bias) == (0.1, None)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("eps", [0.0, -1e-5, math.nan, math.inf])
def test_an_eps_that_could_make_nan_is_refused(norm, eps):
    with pytest.raises(ConfigError, match=f"eps = {eps} in a norm; expected a finite number above"):
        norm(3, eps=eps)

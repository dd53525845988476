"""The linear layer: large or small, it is `F.linear`, forward, backward and twice backward."""

import pytest
import torch
import torch.nn.functional as F

from qkv.attention import linear as module
from qkv.attention.linear import Linear, linear


@pytest.fixture
def always_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONVOLUTION_PAYS", 0)


@pytest.mark.parametrize("shape", [(11,), (7, 11), (3, 5, 11)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.usefixtures("always_large")
def test_by_convolution_it_is_the_same(shape, with_bias):
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(13, 11, requires_grad=True)
    bias = torch.randn(13, requires_grad=True) if with_bias else None
    inputs = [x, weight, *([bias] if bias is not None else [])]
    ours, theirs = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, inputs, gradient)
    for a, b in zip(torch.autograd.grad(ours, inputs, gradient), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("always_large")
def test_it_can_be_differentiated_twice():
    x = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(7, 3, requires_grad=True)
    for function in (linear, F.linear):
        (slope,) = torch.autograd.grad(function(x, weight).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), weight)
        if function is linear:
            ours = second
    torch.testing.assert_close(ours, second)


def test_a_large_product_goes_by_convolution_and_a_small_one_does_not():
    layer = Linear(256, 1024)
    assert "Convolution" in layer(torch.randn(4, 64, 256)).grad_fn.next_functions[0][0].name()
    assert "Addmm" in layer(torch.randn(2, 256)).grad_fn.name()
    assert "Addmm" in layer.double()(torch.randn(64, 256).double()).grad_fn.name()


@pytest.mark.usefixtures("always_large")
def test_under_autocast_torch_decides():
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(11, 13)(torch.randn(5, 11)).dtype == torch.bfloat16


@pytest.mark.usefixtures("always_large")
def test_what_is_not_contiguous_is_read_right():
    x, weight = torch.randn(11, 5).T, torch.randn(11, 13).T
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_a_frozen_layer_keeps_no_input_for_a_gradient_that_nobody_asks_for():
    weight = torch.randn(64, 512)
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    x = torch.randn(2048, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        linear(x, weight).sum().backward()
    assert kept == [(64, 512)]
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x))

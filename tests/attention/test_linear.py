"""The linear layer: large or small, it is `F.linear`, forward, backward and twice backward."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_as_exact

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
    wide = [one.detach().double().requires_grad_() for one in inputs]
    outputs = linear(x, weight, bias), F.linear(x, weight, bias), F.linear(*wide)
    assert_as_exact(*outputs)
    upstream = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad(output, leaves, upstream.to(output))
        for output, leaves in zip(outputs, (inputs, inputs, wide), strict=True)
    ]
    for ours, theirs, exact in zip(*gradients, strict=True):
        assert_as_exact(ours, theirs, exact)


@pytest.mark.usefixtures("always_large")
def test_it_can_be_differentiated_twice():
    x = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(7, 3, requires_grad=True)

    def second(function, x, weight):
        (slope,) = torch.autograd.grad(function(x, weight).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), weight)[0]

    wide = (one.detach().double().requires_grad_() for one in (x, weight))
    exact = second(F.linear, *wide)
    assert_as_exact(second(linear, x, weight), second(F.linear, x, weight), exact)


def test_a_large_product_goes_by_convolution_and_a_small_one_does_not():
    def name(node):  # older versions of torch refuse node.name() where Python defines it
        return type(node).__name__

    layer = Linear(256, 1024)
    large = layer(torch.randn(4, 64, 256)).grad_fn.next_functions[0][0]  # below a view
    assert "Convolution" in name(large)
    assert "Addmm" in name(layer(torch.randn(2, 256)).grad_fn)
    assert "Addmm" in name(layer.double()(torch.randn(64, 256).double()).grad_fn)


@pytest.mark.usefixtures("always_large")
def test_under_autocast_torch_decides():
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(11, 13)(torch.randn(5, 11)).dtype == torch.bfloat16


@pytest.mark.usefixtures("always_large")
def test_what_is_not_contiguous_is_read_right():
    x, weight = torch.randn(11, 5).T, torch.randn(11, 13).T
    exact = F.linear(x.double(), weight.double())
    assert_as_exact(linear(x, weight), F.linear(x, weight), exact)


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

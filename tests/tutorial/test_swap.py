"""The library on a function of one's own."""

import importlib
import sys

import pytest
import torch
from torch import nn

from qkv.attention import core
from qkv.attention.core import attention_weights, masked_softmax
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.feed_forward import FeedForward
from qkv.errors import ConfigError
from qkv.tutorial.swap import swap


def block():
    torch.manual_seed(0)
    return Block(BlockConfig(d_model=10, n_heads=2, d_ff=7, dropout=0.0)).double().eval()


def test_the_same_function_gives_the_same_output():
    x, model = torch.randn(3, 5, 10, dtype=torch.float64), block()

    def mine(scores, mask):
        assert mask is None or mask.dtype == torch.bool
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    with swap(masked_softmax, mine):
        swapped = model(x)
    torch.testing.assert_close(swapped, model(x), rtol=0, atol=1e-12)


def test_another_function_gives_another_output_and_is_put_back():
    x, model = torch.randn(3, 5, 10, dtype=torch.float64), block()
    before, attention = model(x), core.attention
    with swap(masked_softmax, lambda scores, _: torch.full_like(scores, 1 / scores.shape[-1])):
        assert (model(x) - before).abs().max() > 1e-3
    assert core.masked_softmax is masked_softmax
    assert core.attention is attention
    assert torch.equal(model(x), before)


def test_it_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), swap(masked_softmax, lambda *_: 1 / 0):
        block()(torch.randn(1, 2, 10, dtype=torch.float64))
    assert core.masked_softmax is masked_softmax


def test_a_class_can_be_swapped():
    built = []

    class Mine(nn.Linear):
        def __init__(self, *args, **kwargs):
            built.append(self)
            super().__init__(10, 10)

    with swap(FeedForward, Mine):
        model = block()
    assert any(module is built[0] for module in model.modules())


def test_what_never_ran_is_an_error():
    match = "nothing in this block called attention_weights, so yours did not run"
    with pytest.raises(ConfigError, match=match), swap(attention_weights, len):
        pass
    with pytest.raises(ConfigError, match="no module of the library uses len"), swap(len, len):
        pass


def test_dropout_of_weights_is_refused():
    q = torch.randn(1, 2, 3, 4)
    match = r"dropout = 0\.5 of attention weights"
    with pytest.raises(ConfigError, match=match), swap(masked_softmax, masked_softmax):
        core.attention(q, q, q, dropout=0.5)


def test_a_module_that_is_imported_in_the_block_is_put_back(monkeypatch):
    name = "qkv.attention.local"
    importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)  # and put back after the test
    with swap(masked_softmax, masked_softmax):
        imported = importlib.import_module(name)
        q = torch.randn(1, 2, 3, 4)
        core.attention(q, q, q)
    assert imported.masked_softmax is masked_softmax


def test_a_function_is_swapped_once():
    with swap(masked_softmax, masked_softmax):
        q = torch.randn(1, 2, 3, 4)
        core.attention(q, q, q)
        match = "masked_softmax is swapped already"
        with pytest.raises(ConfigError, match=match), swap(masked_softmax, masked_softmax):
            pass

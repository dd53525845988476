"""Dropout: expectation, share, nothing in eval, and one mask for values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import S, T, bart, gpt, llama, problem, rnn, t5, transformer

from qkv.attention.core import attention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.blocks.dropout import Dropout, dropout


@settings(max_examples=20)
@given(p=st.floats(0.0, 0.95), seed=st.integers(0, 99))
def test_share_and_expectation(p, seed):
    torch.manual_seed(seed)
    n = 100_003  # no multiple of the four elements that share a draw
    y = dropout(torch.ones(n, dtype=torch.float64), p)
    dropped = (y == 0).double().mean().item()
    five_sigma = 5 * math.sqrt(p * (1 - p) / n) + 2**-16  # p is rounded to 1 / 65536
    assert abs(dropped - p) <= five_sigma
    assert y.mean().item() == pytest.approx(1, abs=five_sigma / (1 - p))
    kept = y[y != 0]
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_keeps_shape_and_dtype_and_drops_each_place_alike(dtype):
    x = torch.ones(3, 5, 7, dtype=dtype).transpose(0, 1)
    mean = sum(dropout(x, 0.25).double() for _ in range(2000)) / 2000
    assert dropout(x, 0.25).shape == (5, 3, 7)
    assert dropout(x, 0.25).dtype == dtype
    assert (mean - 1).abs().max() < 5 * math.sqrt(0.25 / 0.75 / 2000) + 5e-3  # bfloat16's 4/3


def test_an_accelerator_drops_by_its_own_kernel():
    y = dropout(torch.ones(3, 5, device="meta"), 0.4)
    assert (y.device.type, y.shape) == ("meta", (3, 5))


def test_neighbours_that_share_a_draw_are_independent():
    kept = dropout(torch.ones(50_000, 4, dtype=torch.float64), 0.5) != 0
    correlation = torch.corrcoef(kept.double().T)
    assert (correlation - torch.eye(4)).abs().max() < 5 / math.sqrt(50_000)


def test_the_gradient_uses_the_same_mask():
    x = torch.rand(3, 5, 7, dtype=torch.float64) + 1
    x.requires_grad_()
    y = Dropout(0.4)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert 0 < (y == 0).sum() < y.numel()
    torch.testing.assert_close(gradient, (y / x).detach(), rtol=1e-12, atol=0)


def test_attention_dropout_drops_weights_and_the_gradient_uses_the_same_ones():
    queries, keys = (torch.randn(1, 2, n, 5, dtype=torch.float64) for n in (7, 11))
    # Values of unit vectors show the weights.
    values = torch.eye(11, dtype=torch.float64).expand(1, 2, 11, 11).requires_grad_()
    weights = attention(queries, keys, values)
    dropped = attention(queries, keys, values, dropout=0.4)
    share = (dropped == 0).double().mean().item()
    assert abs(share - 0.4) < 5 * math.sqrt(0.24 / 154)
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0, weights / 0.6))
    upstream = torch.randn_like(dropped)
    (gradient,) = torch.autograd.grad((dropped * upstream).sum(), values)
    torch.testing.assert_close(gradient, dropped.detach().mT @ upstream)


def test_windows_drop_weights_too():
    # Longer than a chunk of queries; values of unit vectors show the weights.
    model = SlidingWindowAttention(5, 1, window=7, bias=False, causal=True, dropout=0.4).double()
    queries, keys = (torch.randn(1, 1, 211, 5, dtype=torch.float64) for _ in range(2))
    values = torch.eye(211, dtype=torch.float64)[None, None]
    weights = model.eval().attend(queries, keys, values, None)
    dropped = model.train().attend(queries, keys, values, None)
    inside = weights != 0
    share = (dropped[inside] == 0).double().mean().item()
    assert abs(share - 0.4) < 5 * math.sqrt(0.24 / inside.sum().item())
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0, weights / 0.6))


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_no_dropout_in_eval(p):
    x = torch.randn(3, 5)
    assert Dropout(p).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


@pytest.mark.parametrize(
    "make",
    [
        lambda p: transformer(dropout=p),
        lambda p: transformer(attention_dropout=p),
        lambda p: rnn(dropout=p),
        lambda p: gpt(dropout=p),
        lambda p: gpt(attention_dropout=p),
        lambda p: gpt(embedding_dropout=p),
        lambda p: llama(attention_dropout=p),
        lambda p: llama(attention_dropout=p, window=3),
        lambda p: gpt(attention_dropout=p, divided_by_layer=True),
        lambda p: bart(dropout=p),
        lambda p: bart(attention_dropout=p),
        lambda p: bart(activation_dropout=p),
        lambda p: t5(dropout=p),
    ],
    ids=[
        "transformer",
        "transformer's attention",
        "rnn",
        "gpt",
        "gpt's attention",
        "gpt's embedding",
        "llama's attention",
        "llama's windows",
        "gpt's attention, divided by layer",
        "bart",
        "bart's attention",
        "bart's feed-forward",
        "t5",
    ],
)
def test_each_option_reaches_training_and_only_training(make):
    source, target, mask = problem()

    def runs(model):
        return [model(source, target, source_mask=mask) for _ in range(2)]

    without, model = make(0.0), make(0.4)
    one, two = runs(model.eval())
    assert torch.equal(one, two)
    assert torch.equal(one, runs(without)[0])
    one, two = runs(model.train())
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (transformer, [(S, 22), (T, 22)]),  # each sum of embeddings and positions (section 5.4)
        (bart, [(S, 22), (T, 22)]),  # the same, after the norm
        (t5, [(S, 23), (T, 23)]),  # tokens; after the stacks its closing norms drop
        (rnn, [(S, 11), (T, 11), (T, 26)]),  # both embeddings, and what the output layer reads
    ],
)
def test_where_a_model_drops_outside_its_blocks(make, sites):
    model, (source, target, mask) = make(dropout=0.1), problem()
    seen = []
    model.dropout.register_forward_hook(lambda m, args, y: seen.append(tuple(y.shape[1:])))
    model(source, target, source_mask=mask)
    assert seen == sites

"""Golden values of softmax attention; its laws are in tests/laws/test_fused.py."""

import math

import pytest
import torch
from tests.helpers import assert_close

from qkv.attention.core import (
    attention,
    attention_weights,
    explicit_attention,
    mask_scores,
    masked_softmax,
)
from qkv.tutorial.measure import peak_memory


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_masked_softmax():
    scores = tensor(0, math.log(2), math.log(3))
    # e^0, e^ln2, e^ln3 = 1, 2, 3: over 6; without the last over 3
    assert_close(masked_softmax(scores, None), tensor(1, 2, 3) / 6)
    assert_close(masked_softmax(scores, torch.tensor([1, 1, 0]).bool()), tensor(1, 2, 0) / 3)
    assert masked_softmax(scores, torch.zeros(3).bool()).tolist() == [0, 0, 0]


def test_mask_scores_writes_minus_infinity_and_only_where_it_must():
    masked = mask_scores(tensor(1, 2, 3), torch.tensor([True, False, True]))
    assert masked.tolist() == [1, -math.inf, 3]
    assert mask_scores(masked, None) is masked


@pytest.mark.parametrize("function", [explicit_attention, attention])
def test_attention_by_hand(function):
    # q = (2 ln 3, 0, 0, 0); k1 = e1, k2 = 0: scores 2 ln 3 / sqrt(4) = ln 3 and 0
    # weights 3/4 and 1/4; values 8 and 4: 6 + 1 = 7
    queries, keys, values = torch.zeros(3, 1, 1, 2, 4, dtype=torch.float64)
    queries[..., 0, 0], keys[..., 0, 0] = 2 * math.log(3), 1
    values[..., 0, 0], values[..., 1, 0] = 8, 4
    assert function(queries, keys, values)[0, 0, 0, 0].item() == pytest.approx(7, rel=1e-14)
    # bias (0, ln 9): weights 3/12 and 9/12: 2 + 3 = 5
    bias = tensor(0, math.log(9)).expand(2, 2)
    out = function(queries, keys, values, bias=bias)
    assert out[0, 0, 0, 0].item() == pytest.approx(5, rel=1e-14)
    # causal: the first of two queries sees the first of two keys only
    out = function(queries, keys, values, causal=True)
    assert out[0, 0, 0, 0].item() == pytest.approx(8, rel=1e-14)


@pytest.mark.parametrize("function", [explicit_attention, attention])
def test_each_key_head_serves_neighbouring_query_heads(function):
    queries, keys, values = (
        torch.randn(2, heads, n, 5, dtype=torch.float64) for heads, n in ((6, 7), (2, 11), (2, 11))
    )
    grouped = function(queries, keys, values)
    for head in range(6):
        key_head = slice(head // 3, head // 3 + 1)
        alone = function(queries[:, head : head + 1], keys[:, key_head], values[:, key_head])
        assert_close(grouped[:, head : head + 1], alone)


def test_one_query_over_a_cache_sees_all_of_it():
    queries, keys = torch.randn(1, 1, 1, 3).double(), torch.randn(1, 1, 5, 3).double()
    assert (attention_weights(queries, keys, causal=True) > 0).all()
    causal = attention(queries, keys, keys, causal=True)
    assert_close(causal, attention(queries, keys, keys))


@pytest.mark.parametrize("shape", [(1021, 1021), (3, 1021, 1021), (1, 3, 1021, 1021)])
def test_no_shape_of_a_bias_makes_the_kernel_store_the_weights(shape):
    x, bias = torch.randn(1, 3, 1021, 8), torch.randn(shape)
    assert peak_memory(lambda: attention(x, x, x, bias=bias)) < 3 * 1021**2 * 4 / 4


@pytest.mark.parametrize("d_value", [5, 13])
def test_no_width_of_the_values_makes_the_kernel_store_the_weights(d_value):
    x, values = torch.randn(1, 3, 1021, 8), torch.randn(1, 3, 1021, d_value)
    assert peak_memory(lambda: attention(x, x, values)) < 3 * 1021**2 * 4 / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_short_gradients_of_16_bits_are_those_of_float32(dtype, autocast):
    torch.manual_seed(0)
    shapes = ((6, 7), (3, 11), (3, 11))  # heads and length of queries, keys and values
    exact = [torch.randn(2, h, n, 5).to(dtype).float().requires_grad_() for h, n in shapes]
    short = [x.detach().to(dtype).requires_grad_() for x in exact]
    upstream = torch.randn(2, 6, 7, 5).to(dtype)
    explicit_attention(*exact, causal=True).backward(upstream.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = attention(*short, causal=True)
    assert output.dtype == dtype
    output.backward(upstream)
    for mine, reference in zip(short, exact, strict=True):
        assert mine.grad.dtype == dtype
        error = (mine.grad.float() - reference.grad).abs().max() / reference.grad.abs().max()
        assert error <= 2 * torch.finfo(dtype).eps

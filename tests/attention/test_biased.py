from functools import partial

import pytest
import torch
from tests.helpers import assert_close, randomized, right_mask, unchecked

from qkv.attention import biased
from qkv.attention.biased import CHUNK, biased_attention
from qkv.attention.cache import KeyValueCache
from qkv.attention.core import attention, explicit_attention
from qkv.attention.masks import attention_mask, causal_mask, key_positions
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.positions import ALiBi, RelativeBias
from qkv.errors import ShapeError
from qkv.tutorial.measure import flops, peak_memory

BATCH, H, G, K, D, DV = 2, 6, 3, 23, 7, 5


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(biased, "CHUNK", 5)  # divides neither 23 nor 13: the last one is smaller


def make_bias(kind):
    alibi, learned = ALiBi(H), RelativeBias(H, n_buckets=8, max_distance=11, bidirectional=True)
    return randomized({"alibi": alibi, "learned": learned}[kind])


def leaves(n_queries):
    shapes = ((H, n_queries, D), (G, K, D), (G, K, DV))
    return [torch.randn(BATCH, *s, dtype=torch.float64, requires_grad=True) for s in shapes]


def make_mask(kind, n_queries):
    if kind == "tokens":
        return attention_mask(right_mask([17, 23], K))
    if kind == "keys only":
        return torch.rand(K) < 0.6
    if kind == "each query":
        mask = torch.rand(BATCH, H, n_queries, K) < 0.6
        mask[0, :, 7:] = False  # nothing to see, across a whole chunk
        return mask
    return None


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_queries", [23, 13])  # all, and the last ones over a past
@pytest.mark.parametrize("mask", [None, "tokens", "keys only", "each query"])
@pytest.mark.parametrize("kind", ["alibi", "learned"])
@pytest.mark.usefixtures("small_chunks")
def test_by_chunks_it_is_the_same_function_forward_and_backward(kind, mask, n_queries, causal):
    inputs, bias, mask = leaves(n_queries), make_bias(kind), make_mask(mask, n_queries)
    options = {"mask": mask, "causal": causal}
    whole = explicit_attention(*inputs, bias=bias(*key_positions(mask, *inputs[:2])), **options)
    chunked = biased_attention(*inputs, bias, **options)
    assert_close(chunked, whole)
    with torch.no_grad():
        assert_close(biased_attention(*inputs, bias, **options), whole)
    upstream = torch.randn_like(whole)
    for ours, reference in zip(
        torch.autograd.grad(chunked, [*inputs, *bias.parameters()], upstream),
        torch.autograd.grad(whole, [*inputs, *bias.parameters()], upstream),
        strict=True,
    ):
        assert_close(ours, reference)


@pytest.mark.parametrize("kind", ["alibi", "learned"])
@pytest.mark.usefixtures("small_chunks")
def test_queries_with_nothing_to_see_give_zeros_and_no_gradient(kind):
    inputs = leaves(K)
    out = biased_attention(*inputs, make_bias(kind), mask=make_mask("each query", K))
    assert (out[0, :, 7:] == 0).all()
    assert (out[1] != 0).all()
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][0, :, 7:] == 0).all()


def test_up_to_one_chunk_of_queries_it_is_the_fused_kernel_itself():
    bias, x = ALiBi(3), torch.randn(2, 3, CHUNK, 5)
    expected = attention(x, x, x, bias=bias(*key_positions(None, x, x)), causal=True)
    assert torch.equal(biased_attention(x, x, x, bias, causal=True), expected)


@pytest.mark.usefixtures("small_chunks")
def test_the_backward_pass_drops_the_weights_that_the_forward_pass_dropped():
    queries, keys, values = leaves(K)
    out = biased_attention(queries, keys, values, make_bias("alibi"), dropout=0.5)
    upstream = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, values, upstream)
    # Linear in the values: with the same weights, and only with them, this holds.
    torch.testing.assert_close((gradient * values).sum(), (out * upstream).sum())
    again = biased_attention(queries, keys, values, make_bias("alibi"), dropout=0.5)
    assert not torch.allclose(again, out)


@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention_over_more_than_one_chunk_cached_and_not(causal):
    length = CHUNK + 29
    module = randomized(
        MultiHeadAttention(12, 2, causal=causal, position_bias=randomized(ALiBi(2)))
    )
    x = torch.randn(2, length, 12, dtype=torch.float64)
    mask = attention_mask(right_mask([length, CHUNK + 3], length))
    whole = module(x, mask=mask)
    positions = torch.arange(length)
    keys, values = module.keys_values(x, positions)
    weights = module.weights(module.queries(x, positions), keys, mask)
    assert_close(module.join(weights @ values, x), whole)
    if causal:
        cache = KeyValueCache()
        steps = [
            module(part, mask=mask[..., : cache.length + part.shape[1]], cache=cache)
            for part in x.split([3, CHUNK + 1, 1, 24], 1)
        ]
        assert_close(torch.cat(steps, 1), whole)


def peaks(run):
    """Peak memory at length 2048 and 4096: linear gives a ratio of 2, the bias alone one of 4."""
    return [peak_memory(partial(run, torch.randn(1, 2, n, 16))) for n in (2048, 4096)]


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_the_length(causal):
    bias = ALiBi(2)

    def run(x):
        with torch.no_grad():
            biased_attention(x, x, x, bias, causal=causal)

    short, long = peaks(run)
    assert long < 3 * short
    assert long < 2 * 4096**2 * 4 / 4  # a quarter of the bias


@pytest.mark.parametrize("make", [ALiBi, lambda n: RelativeBias(n, bidirectional=True)])
def test_memory_of_forward_and_backward_is_linear_in_the_length(make):
    bias = make(2)

    def run(x):
        x.requires_grad_()
        out = biased_attention(x, x, x, bias)
        torch.autograd.grad(out.sum(), [x, *bias.parameters()])

    short, long = peaks(run)
    assert long < 3 * short


def test_causal_chunks_meet_no_later_keys():
    x, n_chunks = torch.randn(1, 1, 8 * CHUNK, 4), 8

    def work(causal):
        return flops(lambda: biased_attention(x, x, x, ALiBi(1), causal=causal))

    with torch.no_grad():
        assert work(True) / work(False) == (n_chunks + 1) / 2 / n_chunks


def test_a_mask_of_another_shape_is_refused():
    x = torch.randn(2, 3, 7, 5)
    mask = causal_mask(7, 5)
    with unchecked(), pytest.raises(ShapeError, match=r"shape \(7, 5\).* = \(2, 3, 7, 7\)"):
        biased_attention(x, x, x, ALiBi(3), mask=mask)

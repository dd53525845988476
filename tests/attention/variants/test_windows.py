"""Sliding, dilated, global and streaming: the chunks compute what `attention` does under a mask."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attention.variants.mechanisms import (
    SIZES,
    D,
    H,
    assert_same_function,
    build,
    standard,
    tokens,
)
from tests.helpers import assert_close, randomized

from qkv.attention.core import attention
from qkv.attention.masks import sliding_window_mask
from qkv.attention.variants import chunks
from qkv.attention.variants.dilated_window import DilatedWindowAttention, dilated_window_mask
from qkv.attention.variants.global_tokens import GlobalTokensAttention, global_tokens_mask
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.attention.variants.streaming_cache import StreamingCache
from qkv.errors import ConfigError

both_ways = pytest.mark.parametrize("causal", [False, True])


def rows(mask):
    return ["".join("1" if cell else "." for cell in row) for row in mask]


def at(first, last):
    return torch.arange(first, last + 1)


def test_sliding_window_mask():
    assert rows(sliding_window_mask(at(2, 4), at(0, 5), window=1)) == [".111..", "..111.", "...111"]
    causal = sliding_window_mask(at(2, 4), at(0, 5), window=2, causal=True)
    assert rows(causal) == ["111...", ".111..", "..111."]


def test_dilated_window_mask():
    mask = dilated_window_mask(at(3, 4), at(0, 7), window=1, dilation=3)
    assert rows(mask) == ["1..1..1.", ".1..1..1"]
    causal = dilated_window_mask(at(3, 4), at(0, 7), window=2, dilation=2, causal=True)
    assert rows(causal) == [".1.1....", "1.1.1..."]


def test_global_tokens_mask():
    mask = global_tokens_mask(at(0, 4), at(0, 4), n_global=1, window=1)
    assert rows(mask) == ["11111", "111..", "1111.", "1.111", "1..11"]
    causal = global_tokens_mask(at(0, 4), at(0, 4), n_global=2, window=1, causal=True)
    assert rows(causal) == ["1....", "11...", "111..", "1111.", "11.11"]


@st.composite
def problems(draw):
    torch.manual_seed(draw(st.integers(0, 99)))
    n_keys = draw(st.sampled_from([1, 2, 5, 11, 23]))
    n_queries = draw(st.integers(1, n_keys))
    sizes = ((H, n_queries), (1, n_keys), (1, n_keys))
    inputs = [torch.randn(2, g, n, D, dtype=torch.float64, requires_grad=True) for g, n in sizes]
    shape = draw(st.sampled_from([None, (n_keys,), (2, 1, 1, n_keys), (2, H, n_queries, n_keys)]))
    mask = None if shape is None else torch.rand(shape) < 0.6
    return inputs, mask, draw(st.integers(1, 13)), draw(st.booleans())


def assert_attends(module, inputs, mask, pattern):
    """The module's chunks equal the kernel under the pattern, forward and backward.

    Positions count the keys that some query may see; what a query of a hidden key sees is free.
    """
    queries, keys, _ = inputs
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    whole = torch.ones(2, H, n_queries, n_keys, dtype=torch.bool)
    whole = whole if mask is None else whole & mask
    real = whole.any(2).any(1)
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    past = n_keys - n_queries
    allowed = [pattern(row[past:], row) for row in positions]
    allowed = torch.stack(allowed)[:, None] & whole
    ours, theirs = module.attend(*inputs, mask), attention(*inputs, mask=allowed)
    asked = real[:, None, past:, None]
    torch.testing.assert_close(ours * asked, theirs * asked, rtol=1e-12, atol=1e-13)
    upstream = torch.randn_like(ours) * asked
    gradients = [torch.autograd.grad((y * upstream).sum(), inputs) for y in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


inside_a_fixture = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@inside_a_fixture
@given(problem=problems())
def test_sliding_windows_equal_a_band_mask(problem):
    inputs, mask, window, causal = problem
    module = SlidingWindowAttention(*SIZES, window=window, causal=causal)

    def band(queries, keys):
        distance = keys - queries[:, None]
        return (distance.abs() <= window) & ((distance <= 0) | (not causal))

    assert_attends(module, inputs, mask, band)


@inside_a_fixture
@given(problem=problems(), dilation=st.integers(1, 5))
def test_dilated_windows_equal_a_mask_with_gaps(problem, dilation):
    inputs, mask, window, causal = problem
    options = {"window": window, "dilation": dilation, "causal": causal}
    module = DilatedWindowAttention(*SIZES, **options)
    assert_attends(module, inputs, mask, lambda q, k: dilated_window_mask(q, k, **options))


@inside_a_fixture
@given(problem=problems(), n_global=st.integers(0, 7))
def test_global_tokens_equal_a_mask_with_rows_and_columns(problem, n_global):
    inputs, mask, window, causal = problem
    options = {"window": window, "n_global": n_global, "causal": causal}
    module = GlobalTokensAttention(*SIZES, **options)
    assert_attends(module, inputs, mask, lambda q, k: global_tokens_mask(q, k, **options))


@both_ways
def test_a_window_as_long_as_the_text_is_standard_attention(causal):
    window = randomized(SlidingWindowAttention(*SIZES, window=11, causal=causal))
    assert_same_function(window, standard(window), tokens())


@both_ways
def test_limits_of_dilated_and_global(causal):
    plain = randomized(SlidingWindowAttention(*SIZES, window=2, causal=causal))
    dilated = DilatedWindowAttention(*SIZES, window=2, dilation=1, causal=causal).double()
    no_global = GlobalTokensAttention(*SIZES, window=2, n_global=0, causal=causal).double()
    all_global = GlobalTokensAttention(*SIZES, window=2, n_global=11, causal=causal).double()
    for module in (dilated, no_global, all_global):
        module.load_state_dict(plain.state_dict())
    assert_same_function(dilated, plain, tokens())
    assert_same_function(no_global, plain, tokens())
    assert_same_function(all_global, standard(plain), tokens())


@pytest.mark.parametrize("name", ["sliding", "dilated", "global"])
@both_ways
def test_work_is_linear_in_the_length(name, causal, monkeypatch):
    module, pairs = build(name, causal), []

    def counting(queries, keys, values, **options):
        pairs.append(queries.shape[2] * keys.shape[2])
        return attention(queries, keys, values, **options)

    monkeypatch.setattr(chunks, "attention", counting)
    work = []
    for length in (300, 600, 1200):
        module(tokens(length))
        work.append(sum(pairs))
        pairs.clear()
    assert work[2] - work[1] == pytest.approx(2 * (work[1] - work[0]), rel=0.02)
    assert work[2] < 1200**2 / 20


def test_one_query_over_a_long_past_meets_its_window_only(monkeypatch):
    module, seen = build("sliding"), []

    def counting(queries, keys, values, **options):
        seen.append(keys.shape[2])
        return attention(queries, keys, values, **options)

    monkeypatch.setattr(chunks, "attention", counting)
    past = torch.randn(2, 1, 500, D, dtype=torch.float64)
    module.attend(torch.randn(2, H, 1, D, dtype=torch.float64), past, past, None)
    assert seen == [3]


def test_chunks_of_the_shipped_size(monkeypatch):
    monkeypatch.undo()
    assert chunks.SMALLEST_CHUNK == 128
    module = randomized(SlidingWindowAttention(*SIZES, window=150))
    mask = sliding_window_mask(at(0, 520), at(0, 520), window=150)
    assert_same_function(module, lambda x: standard(module)(x, mask=mask), tokens(521))


def test_streaming_is_causal_attention_to_sinks_and_a_window():
    streaming = randomized(StreamingAttention(*SIZES, n_sinks=3, window=2))
    mask = (at(0, 10) < 3) | (at(0, 10) >= at(0, 10)[:, None] - 2)
    causal = standard(streaming)
    assert causal.causal
    assert_same_function(streaming, lambda x: causal(x, mask=mask), tokens())


@pytest.mark.parametrize("sizes", [[1] * 50, [23, 1, 7, 1, 1, 17]])
def test_a_streaming_cache_does_not_grow(sizes):
    streaming, cache = build("streaming"), StreamingCache(n_sinks=3, window=2)
    x = tokens(50)
    steps = [streaming(part, cache=cache) for part in x.split(sizes, 1)]
    assert_close(torch.cat(steps, 1), streaming(x))
    assert [kept.shape[2] for kept in cache._kept] == [5, 5]
    assert cache.length == 50


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlidingWindowAttention(*SIZES, window=0), "window of 0 positions; .* at least 1"),
        (
            lambda: DilatedWindowAttention(*SIZES, window=2, dilation=0),
            "dilation = 0; expected at least 1",
        ),
        (
            lambda: GlobalTokensAttention(*SIZES, window=2, n_global=-1),
            "n_global = -1; expected a number of tokens",
        ),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

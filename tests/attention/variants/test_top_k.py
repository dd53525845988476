"""Attention to the k keys with the highest index scores, and how the indexer learns."""

import pytest
import torch
from tests.attention.variants.mechanisms import (
    SIZES,
    B,
    D,
    H,
    L,
    assert_same_function,
    build,
    standard,
    tokens,
)
from tests.helpers import assert_close, randomized, right_mask

from qkv.attention.cache import KeyValueCache
from qkv.attention.masks import attention_mask
from qkv.attention.record import record_attention
from qkv.attention.variants.top_k import TopKAttention, index_scores, select_top_k
from qkv.blocks.positions import ALiBi, Rotary
from qkv.errors import ConfigError


def make(k, **options):
    return randomized(TopKAttention(*SIZES, k=k, n_index_heads=2, rotary=Rotary(D), **options))


def recorded(module, x, **options):
    with record_attention(module) as record:
        module(x, **options)
    return record["attention"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("k", [L, 101])
def test_with_k_of_all_keys_it_is_full_attention(causal, k):
    module = make(k, causal=causal, n_kv_heads=1)
    full = standard(module, n_kv_heads=1)
    assert_same_function(module, full, tokens())
    mask = attention_mask(right_mask([L, 7], L))
    x = tokens()
    assert_close(module(x, mask=mask), full(x, mask=mask))


def by_the_definition(module, x):
    """Eq. 1 and 2, a query at a time; all heads attend to the same keys."""
    places = torch.arange(L)
    q = module.index_query(x).unflatten(-1, (2, D)).transpose(1, 2)
    key = torch.nn.functional.layer_norm(
        module.index_key(x), (D,), module.index_key_norm.weight, module.index_key_norm.bias, 1e-6
    )
    q, key = module.rotary(q, places), module.rotary(key[:, None], places)[:, 0]
    w = module.index_weight(x)
    chosen = torch.zeros(B, 1, L, L, dtype=torch.bool)
    for b in range(B):
        for t in range(L):
            score = [
                sum(w[b, t, j] * (q[b, j, t] @ key[b, s]).clamp(min=0) for j in range(2)).item()
                for s in range(t + 1)
            ]
            best = sorted(range(t + 1), key=lambda s: -score[s])[: module.k]
            chosen[b, 0, t, best] = True
    return chosen


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_attention_under_the_mask_of_the_definition(k):
    module, x = make(k, causal=True), tokens()
    chosen = by_the_definition(module, x)
    assert chosen.sum(-1).max() == k
    assert_same_function(module, lambda y: standard(module)(y, mask=chosen), x)
    assert ((recorded(module, x) > 0) == chosen).all()


def test_by_hand():
    # q = (1, 0) and (0, 1), w = (2, -1); keys (3, 1), (1, 4) and (-5, -5).
    queries = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2)
    keys = torch.tensor([[3.0, 1], [1, 4], [-5, -5]], dtype=torch.float64).view(1, 1, 3, 2)
    weights = torch.tensor([2.0, -1], dtype=torch.float64).view(1, 1, 2)
    scores = index_scores(queries, keys, weights)
    assert scores.flatten().tolist() == [5, -2, 0]
    allowed = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    assert select_top_k(scores, allowed, 2).flatten().tolist() == [True, False, True]
    allowed[..., 0] = False
    assert select_top_k(scores, allowed, 1).flatten().tolist() == [False, False, True]
    assert select_top_k(scores, allowed, 3).flatten().tolist() == [False, True, True]
    ties = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    assert select_top_k(ties, allowed, 1).flatten().tolist() == [False, True, False]


def test_a_bias_counts_the_positions_of_keys_that_are_not_selected():
    module = make(2, causal=True, position_bias=randomized(ALiBi(H)))
    x = tokens()
    chosen = by_the_definition(module, x)
    bias = module.position_bias(torch.arange(L), torch.arange(L))
    full = standard(module)
    full.position_bias = lambda queries, keys: bias.masked_fill(~chosen, -1e30)
    assert_close(module(x), full(x))


def test_the_cache_stores_one_more_key_head():
    module, cache = make(3, causal=True, n_kv_heads=1), KeyValueCache()
    module(tokens(), cache=cache)
    keys, values = cache.reserve(0)
    assert keys.shape[1] == 2
    assert values.shape[1] == 1


@pytest.mark.parametrize("dense", [False, True])
def test_the_alignment_loss_trains_the_indexer_alone(dense):
    module, x = make(3, causal=True), tokens().requires_grad_()
    mask = attention_mask(right_mask([L, 7], L))
    module.alignment_loss(x, mask=mask, dense=dense).backward()
    assert x.grad is None
    trained = {name for name, p in module.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in module.named_parameters() if "index" in name}
    module(x).sum().backward()
    assert x.grad is not None


def test_the_alignment_loss_is_the_divergence_of_the_definition():
    module, x = make(3, causal=True), tokens()
    chosen = by_the_definition(module, x)
    p = recorded(module, x).mean(1)
    scores = module._index_scores(x, module._index_keys(x, torch.arange(L)), torch.arange(L))[:, 0]
    total = 0.0
    for b in range(B):
        for t in range(L):
            keys = chosen[b, 0, t]
            q = scores[b, t, keys].softmax(0)
            total += (p[b, t, keys] * (p[b, t, keys] / q).log()).sum()
    assert_close(module.alignment_loss(x), total)
    assert total > 0


def test_an_aligned_indexer_selects_the_keys_with_the_largest_weights():
    torch.manual_seed(7)
    module, x = make(3, causal=True), tokens()
    index = [p for name, p in module.named_parameters() if "index" in name]
    weights = recorded(make(L, causal=True), x).sum(1)

    def kept():
        return (weights * (recorded(module, x)[:, 0] > 0)).sum() / weights.sum()

    before, optimizer = kept(), torch.optim.Adam(index, lr=3e-2)
    for _ in range(150):
        optimizer.zero_grad()
        module.alignment_loss(x, dense=True).backward()
        optimizer.step()
    best = weights.topk(3, -1).values.sum() / weights.sum()
    assert before < best
    assert kept() > before + 0.7 * (best - before)


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k = 0; expected"), ({"k": 1, "n_index_heads": 0}, "n_ind")]
)
def test_sizes_below_1_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TopKAttention(*SIZES, **options)


def test_nothing_is_selected_where_nothing_is_allowed():
    module, real = build("top-k"), torch.zeros(B, L, dtype=torch.bool)
    assert (recorded(module, tokens(), mask=attention_mask(real)) == 0).all()
    assert module.alignment_loss(tokens(), mask=attention_mask(real)) == 0

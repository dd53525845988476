"""Softcap, QK norm and Shaw's relative positions: what they do to scores, and their limits."""

import math

import pytest
import torch
from tests.attention.variants.mechanisms import (
    SIZES,
    D,
    H,
    L,
    assert_same_function,
    build,
    standard,
    tokens,
)
from tests.helpers import assert_close, randomized

from qkv.attention.record import record_attention
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.relative import RelativeAttention, clipped_distances
from qkv.attention.variants.softcap import SoftcapAttention, softcap
from qkv.blocks.positions import Rotary
from qkv.errors import ConfigError

both_ways = pytest.mark.parametrize("causal", [False, True])


def split(y):
    return y.unflatten(-1, (H, D)).transpose(1, 2)


def test_softcap_by_hand():
    # tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6
    scores = torch.tensor([0.0, 5 * math.log(2), -5 * math.log(2), 1e9], dtype=torch.float64)
    assert_close(softcap(scores, 5.0), torch.tensor([0, 3, -3, 5.0], dtype=torch.float64))


@both_ways
def test_softcap_is_standard_attention_as_the_cap_grows(causal):
    options = {"n_kv_heads": 1, "causal": causal, "rotary": Rotary(D)}
    capped = randomized(SoftcapAttention(*SIZES, cap=1e8, **options))
    assert_same_function(capped, standard(capped, n_kv_heads=1), tokens())


def test_softcap_bounds_the_ratio_of_weights():
    module = SoftcapAttention(*SIZES, cap=2.0).double()
    with record_attention(module) as record:
        module(tokens() * 1e6)
    weights = record["attention"]
    assert (weights.amax(-1) / weights.amin(-1)).max().item() == pytest.approx(math.exp(4))


def test_a_cap_is_positive():
    with pytest.raises(ConfigError, match=r"cap = 0.0; expected a positive bound"):
        SoftcapAttention(*SIZES, cap=0.0)


@both_ways
def test_qk_norm_is_henrys_scaled_cosine(causal):
    module = randomized(QKNormAttention(*SIZES, causal=causal, norm_eps=0.0))
    g = 3.7
    module.query_norm.data.fill_(0.5)
    module.key_norm.data.fill_(g / math.sqrt(D) / 0.5)

    def henry(x):
        q, k, v = (split(y) for y in (module.query(x), module.key(x), module.value(x)))
        cosines = torch.cosine_similarity(q[:, :, :, None], k[:, :, None], -1)
        if causal:
            cosines = cosines.masked_fill(torch.ones(L, L).triu(1).bool(), -math.inf)
        return module.output(((g * cosines).softmax(-1) @ v).transpose(1, 2).flatten(2))

    assert_same_function(module, henry, tokens())


def test_qk_norm_does_not_see_the_size_of_its_projections():
    module = randomized(QKNormAttention(*SIZES, causal=True, norm_eps=0.0, rotary=Rotary(D)))
    x = tokens()
    before = module(x)
    for projection in (module.query, module.key):
        for parameter in projection.parameters():
            parameter.data *= 1000
    assert_close(module(x), before)
    module.value.weight.data *= 2
    assert (module(x) - before).abs().max() > 1e-3


def test_distances_are_clipped():
    distances = clipped_distances(torch.tensor([2, 3]), torch.arange(5), 2)
    assert distances.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]


def shaw(module, causal):
    """Eq. 3 and 4, with a vector for each pair."""

    def function(x):
        q, k, v = (split(y) for y in (module.query(x), module.key(x), module.value(x)))
        n, far = x.shape[1], module.max_distance
        index = torch.tensor(
            [[min(max(j - i, -far), far) + far for j in range(n)] for i in range(n)]
        )
        a_k, a_v = module.key_distances[index], module.value_distances[index]  # (Q, K, D)
        e = ((k[:, :, None] + a_k) * q[:, :, :, None]).sum(-1) / math.sqrt(D)
        if causal:
            e = e.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        z = (e.softmax(-1)[..., None] * (v[:, :, None] + a_v)).sum(3)
        return module.output(z.transpose(1, 2).flatten(2))

    return function


@both_ways
@pytest.mark.parametrize("max_distance", [1, 3, 17])
def test_relative_attention_adds_a_vector_for_each_pair(max_distance, causal):
    module = randomized(RelativeAttention(*SIZES, max_distance=max_distance, causal=causal))
    assert_same_function(module, shaw(module, causal), tokens())


@both_ways
def test_without_its_vectors_relative_attention_is_standard(causal):
    module = build("relative", causal)
    module.key_distances.data.zero_()
    module.value_distances.data.zero_()
    assert_same_function(module, standard(module), tokens())

"""Multi-head latent attention equals standard attention with the composed matrices."""

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
    tokens,
)
from tests.helpers import assert_close, randomized

from qkv.attention.cache import KeyValueCache
from qkv.attention.core import explicit_attention
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.attention.variants.latent import LatentAttention
from qkv.blocks.positions import Rotary, rotate

both_ways = pytest.mark.parametrize("causal", [False, True])
C, R = 7, 2


def unfolded(module, causal):
    """Eq. 9 to 19 as they stand: keys and values of every head, then concatenated parts."""

    def function(x):
        positions = torch.arange(x.shape[1])
        content, turned = (
            module.query(x).unflatten(-1, (H, D + R)).transpose(1, 2).split([D, R], -1)
        )
        latent, key_turned = module.down(x).split([C, R], -1)
        k = module.key(latent).unflatten(-1, (H, D)).transpose(1, 2)
        v = module.value(latent).unflatten(-1, (H, D)).transpose(1, 2)
        key_turned = rotate(key_turned[:, None], positions).expand(-1, H, -1, -1)
        q = torch.cat((content, rotate(turned, positions)), -1)
        k = torch.cat((k, key_turned), -1)
        heads = explicit_attention(q, k, v, causal=causal, scale=1 / math.sqrt(D + R))
        return module.output(heads.transpose(1, 2).flatten(2))

    return function


@both_ways
def test_never_unfolding_the_keys_equals_unfolding_them(causal):
    module = build("latent", causal)
    assert_same_function(module, unfolded(module, causal), tokens())


@both_ways
def test_without_a_rotary_part_it_is_standard_attention_with_composed_matrices(causal):
    module = build("latent", causal)
    query = module.query.weight.data.unflatten(0, (H, D + R))
    query[:, D:] = 0  # q^R = 0: the rotary part adds nothing to the scores
    plain = MultiHeadAttention(*SIZES, bias=False, causal=causal).double()
    # The scores of standard attention are divided by sqrt(D), those here by sqrt(D + R).
    plain.query.weight.data = query[:, :D].flatten(0, 1) * math.sqrt(D / (D + R))
    down = module.down.weight.data[:C]
    plain.key.weight.data = module.key.weight.data @ down
    plain.value.weight.data = module.value.weight.data @ down
    plain.output.weight.data = module.output.weight.data
    assert_same_function(module, plain, tokens())


def test_the_cache_holds_the_latent_and_one_rotary_key():
    module, cache = build("latent"), KeyValueCache(capacity=L)
    x = tokens()
    module(x, cache=cache)
    keys, values = cache.update(lambda: (torch.zeros(2, 1, 0, C + R), torch.zeros(2, 1, 0, 0)))
    assert keys.shape == (2, 1, L, C + R)
    assert values.numel() == 0
    latent, turned = module.down(x).split([C, R], -1)
    assert_close(keys[:, 0, :, :C], latent)
    assert_close(keys[:, :, :, C:], rotate(turned[:, None], torch.arange(L)))


def test_recorded_weights_mix_the_unfolded_values():
    module, x = build("latent"), tokens()
    with record_attention(module) as record:
        out = module(x)
    values = module.value(module.down(x)[..., :C]).unflatten(-1, (H, D)).transpose(1, 2)
    heads = record["attention"] @ values
    assert_close(module.output(heads.transpose(1, 2).flatten(2)), out)


def test_scores_depend_on_distance_only():
    module = randomized(LatentAttention(*SIZES, d_latent=C, d_rotary=R, rotary=Rotary(R)))
    x = tokens()
    assert_close(module(x, positions=torch.arange(L) + 30), module(x))
    assert (module(x, positions=torch.arange(L) * 2) - module(x)).abs().max() > 1e-3

"""Linear attention: by sums, by weights and as a recurrent network, all the same."""

import math

import pytest
import torch
from tests.attention.variants.mechanisms import D, H, L, assert_same_function, build, tokens
from tests.helpers import assert_close

from qkv.attention.variants.feature_sums import (
    causal_linear_attention,
    divide,
    feature_map,
    key_value_sums,
)
from qkv.attention.variants.linear_state import LinearState


def projected(module, x):
    """phi(Q), phi(K) and V, each (B, H, L, D)."""
    projections = (module.query(x), module.key(x), module.value(x))
    q, k, v = (y.unflatten(-1, (H, D)).transpose(1, 2) for y in projections)
    return torch.where(q > 0, q + 1, q.exp()), torch.where(k > 0, k + 1, k.exp()), v


def by_weights(module, causal):
    """Eq. 3 and 4: similarities, normalized, times values."""

    def function(x):
        q, k, v = projected(module, x)
        similarity = torch.einsum("bhqd,bhkd->bhqk", q, k)
        if causal:
            similarity = similarity * torch.ones(L, L).tril()
        heads = similarity / similarity.sum(-1, keepdim=True) @ v
        return module.output(heads.transpose(1, 2).flatten(2))

    return function


def recurrent(module):
    """Eq. 16 to 20, a token at a time."""

    def function(x):
        q, k, v = (y.unbind(2) for y in projected(module, x))
        s = torch.zeros(len(x), H, D, D, dtype=x.dtype)
        z = torch.zeros(len(x), H, D, dtype=x.dtype)
        heads = []
        for i in range(x.shape[1]):
            s = s + k[i][..., :, None] * v[i][..., None, :]
            z = z + k[i]
            read = torch.einsum("bhd,bhdv->bhv", q[i], s)
            heads.append(read / (q[i] * z).sum(-1, keepdim=True))
        return module.output(torch.stack(heads, 1).flatten(2))

    return function


@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_weights(causal):
    module = build("linear", causal)
    assert_same_function(module, by_weights(module, causal), tokens())


def test_equals_the_recurrent_form():
    module = build("linear")
    assert_same_function(module, recurrent(module), tokens())


@pytest.mark.parametrize("length", [1, 63, 64, 65, 131])
def test_chunks_of_any_size_equal_the_recurrent_form(length):
    module = build("linear")
    x = tokens(length)
    assert_close(module(x), recurrent(module)(x))
    q, k, v = projected(module, x)
    whole = causal_linear_attention(q, k, v, chunk=length)
    for chunk in (1, 7):
        for ours, theirs in zip(causal_linear_attention(q, k, v, chunk=chunk), whole, strict=True):
            assert_close(ours, theirs)


def test_the_state_has_one_size_at_any_length():
    module, state = build("linear"), LinearState()
    module(tokens(1), cache=state)
    first = state.sums.shape
    module(tokens(700), cache=state)
    assert state.sums.shape == first == (2, H, D, D + 1)
    assert state.length == 701


def test_by_hand():
    # phi(0) = 1, phi(ln 1/2) = 1/2, phi(2) = 3
    x = torch.tensor([0, math.log(0.5), 2], dtype=torch.float64)
    assert_close(feature_map(x), torch.tensor([1, 0.5, 3], dtype=torch.float64))
    # q = 1; keys 1 and 3, values 8 and 4: (8 + 12) / (1 + 3) = 5
    keys = torch.tensor([[1.0], [3.0]])[None, None]
    values = torch.tensor([[8.0, 1], [4.0, 1]])[None, None]
    assert divide(torch.ones(1, 1, 1, 1) @ key_value_sums(keys, values)).item() == 5


def test_large_queries_and_keys_stay_numbers():
    module, x = build("linear").float(), tokens().float() * 1e4
    x.requires_grad_()
    out = module(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.isfinite().all()
    assert gradient.isfinite().all()

"""Sigmoid, sink, differential and gated: what stands in for the softmax, or after it."""

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

from qkv.attention.core import attention_weights, explicit_attention
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.attention.variants.differential import DifferentialAttention, initial_lambda
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.sigmoid import sigmoid_weights
from qkv.attention.variants.sink import sink_softmax

both_ways = pytest.mark.parametrize("causal", [False, True])


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def split(y, n_heads=H):
    return y.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def test_sigmoid_by_hand():
    # e^s / (e^s + n): of scores 0, ln 2, ln 6 and n = 3: 1/4, 2/5, 6/9
    scores = tensor(0, math.log(2), math.log(6))[None]
    assert_close(sigmoid_weights(scores, None), tensor(1 / 4, 2 / 5, 2 / 3)[None])
    # without the last n = 2: 1/3, 2/4
    mask = torch.tensor([True, True, False])
    assert_close(sigmoid_weights(scores, mask), tensor(1 / 3, 1 / 2, 0)[None])
    assert sigmoid_weights(scores, torch.tensor([False])).tolist() == [[0, 0, 0]]


@both_ways
def test_sigmoid_attention_is_its_formula(causal):
    module = build("sigmoid", causal)

    def formula(x):
        q, k, v = (split(y) for y in (module.query(x), module.key(x), module.value(x)))
        scores = (q[:, :, :, None] * k[:, :, None]).sum(-1) / math.sqrt(D)
        seen = torch.ones(L, L).tril() if causal else torch.ones(L, L)
        weights = scores.exp() / (scores.exp() + seen.sum(-1, keepdim=True)) * seen
        return module.output((weights @ v).transpose(1, 2).flatten(2))

    assert_same_function(module, formula, tokens())


def test_sigmoid_of_equal_keys_nearly_averages():
    module, x = build("sigmoid", False), tokens()
    module.query.weight.data.zero_()
    module.query.bias.data.zero_()
    average = standard(module)(x) - module.output.bias
    assert_close(module(x) - module.output.bias, average * L / (L + 1))


def test_sigmoid_of_one_key_is_a_softmax_with_a_sink_of_zero():
    scores = torch.randn(2, H, L, 1, dtype=torch.float64)
    assert_close(sigmoid_weights(scores, None), sink_softmax(scores, torch.zeros(H).double()))


def test_sink_by_hand():
    # exp: keys 1 and 2, sink 5: over 8; without the second key over 6; without any 0
    scores = tensor(0, math.log(2)).expand(1, 1, 1, 2)
    sinks = tensor(math.log(5))
    assert_close(sink_softmax(scores, sinks)[0, 0, 0], tensor(1 / 8, 2 / 8))
    masked = sink_softmax(scores, sinks, torch.tensor([True, False]))
    assert_close(masked[0, 0, 0], tensor(1 / 6, 0))
    assert not sink_softmax(scores, sinks, torch.tensor([False, False])).any()


@both_ways
def test_without_its_sinks_sink_attention_is_standard(causal):
    module = build("sink", causal)
    module.sinks.data.fill_(-1e9)
    assert_same_function(module, standard(module, n_kv_heads=1), tokens())


def test_a_sink_of_zero_is_one_more_key_and_value_of_zeros():
    module, x = build("sink", False), tokens()
    module.sinks.data.zero_()
    module.rotary = None
    plain = standard(module, n_kv_heads=1)
    for projection in (plain.key, plain.value):
        projection.bias.data.zero_()  # an empty token stays empty
    module.load_state_dict(plain.state_dict(), strict=False)

    def with_zeros(x):
        return plain(x, torch.cat((x, torch.zeros_like(x[:, :1])), 1))

    assert_same_function(module, with_zeros, x)


def differential(module, causal):
    """Eq. 1 to 3, one head at a time; queries and keys turned at width d."""

    def function(x):
        q, k = (
            module.rotary(split(y, 2 * H), torch.arange(x.shape[1]))
            for y in (module.query(x), module.key(x))
        )
        v = split(module.value(x))  # (B, H, K, 2d)
        q1, k1, q2, k2 = module.lambda_vectors
        factor = (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + module.lambda_init
        heads = []
        for h in range(H):
            one, two = (
                explicit_attention(
                    *(z[:, i : i + 1] for z in (q, k)), v[:, h : h + 1], causal=causal
                )
                for i in (2 * h, 2 * h + 1)
            )
            head = (one - factor * two)[:, 0]
            norm = head / (head.square().mean(-1, keepdim=True) + module.norm_eps).sqrt()
            heads.append(norm * module.norm * (1 - module.lambda_init))
        return module.output(torch.cat(heads, -1))

    return function


@both_ways
def test_differential_attention_is_eq_1_to_3(causal):
    module = build("differential", causal)
    assert_same_function(module, differential(module, causal), tokens())


@both_ways
def test_at_lambda_zero_differential_attention_is_standard_before_the_norm(causal):
    module = randomized(DifferentialAttention(*SIZES, lambda_init=0.0, causal=causal))
    module.lambda_vectors.data.zero_()
    assert module.mixing() == 0
    q, k, v = torch.randn(3, 2, 2 * H, L, D // 2, dtype=torch.float64)
    values = v.unflatten(1, (H, 2)).transpose(2, 3).flatten(3)
    heads = explicit_attention(q[:, ::2], k[:, ::2], values, causal=causal)
    norm = heads.square().mean(-1, keepdim=True).add(module.norm_eps).sqrt()
    assert_close(module.attend(q, k, v, None), heads / norm * module.norm)
    assert_close(module.weights(q, k, None), attention_weights(q[:, ::2], k[:, ::2], causal=causal))


def test_recorded_differential_weights_are_what_is_normed():
    module, x = build("differential"), tokens()
    with record_attention(module) as record:
        out = module(x)
    weights = record["attention"]
    assert (weights < 0).any()
    assert_close(weights.sum(-1), (1 - module.mixing()).expand(2, H, L))
    heads = weights @ split(module.value(x))
    heads = torch.nn.functional.rms_norm(heads, (D,), module.norm, module.norm_eps)
    assert_close(module.join(heads * (1 - module.lambda_init), x), out)


def test_lambda_starts_lower_in_early_layers():
    assert initial_lambda(1) == pytest.approx(0.2)
    assert initial_lambda(4) == pytest.approx(0.8 - 0.6 * math.exp(-0.9))
    vectors = DifferentialAttention(600, 3).lambda_vectors
    assert vectors.std().item() == pytest.approx(0.1, rel=0.2)


def of_queries(module, which):
    """Standard attention by one of the two queries of each head."""
    plain = MultiHeadAttention(*SIZES, n_kv_heads=1, causal=module.causal, rotary=module.rotary)
    plain = plain.double()
    plain.load_state_dict(
        module.state_dict()
        | {
            f"query.{name}": w.unflatten(0, (H, 2, D))[:, which].flatten(0, 1)
            for name, w in module.query.named_parameters()
        },
        strict=False,
    )
    return plain


@both_ways
def test_as_lambda_falls_version_2_is_standard_attention_by_the_first_queries(causal):
    module, x = build("differential-v2", causal), tokens()
    module.mixing.weight.data.zero_()
    module.mixing.weight.data[:, 0] = -60.0  # sigmoid(-60) is 9e-27
    x[:, :, 0] = 1
    assert_same_function(module, of_queries(module, 0), x)


@both_ways
def test_version_2_subtracts_a_share_of_each_token_and_head(causal):
    module, x = build("differential-v2", causal), tokens()
    first, second = (of_queries(module, which) for which in (0, 1))
    for plain in (first, second):
        plain.output = torch.nn.Identity()

    def formula(x):
        share = torch.sigmoid(x @ module.mixing.weight.T).repeat_interleave(D, -1)
        return module.output(first(x) - share * second(x))

    assert_same_function(module, formula, x)


def test_version_2_by_hand():
    """Keys 0 and ln 3, values 1 and 5, queries 1 and 0, lambda 0: 4 - 3 / 2."""
    module = DifferentialV2Attention(2, 1, d_head=1, bias=False, causal=True).double()
    weights = {
        "query.weight": [[1, 0], [0, 0]],
        "key.weight": [[0, math.log(3)]],
        "value.weight": [[1, 4]],
        "mixing.weight": [[0, 0]],
        "output.weight": [[1], [1]],
    }
    module.load_state_dict({name: tensor(*w) for name, w in weights.items()})
    x = tensor(1, 0, 1, 1).view(1, 2, 2)
    assert_close(module(x)[0, :, 0], tensor(1 - 1 / 2, 4 - 3 / 2))


@both_ways
def test_an_open_gate_is_standard_attention_and_a_closed_one_nothing(causal):
    module = build("gated", causal)
    module.gate.weight.data.zero_()
    module.gate.bias.data.fill_(50.0)
    assert_same_function(module, standard(module, n_kv_heads=1), tokens())
    module.gate.bias.data.fill_(-1e3)
    assert_close(module(tokens()) + 1, module.output.bias.expand(2, L, -1) + 1)


def test_a_half_open_gate_halves_and_each_coordinate_has_its_own():
    module, x = build("gated"), tokens()
    module.output.weight.data.copy_(torch.eye(12))
    plain = standard(module, n_kv_heads=1)(x) - module.output.bias
    gates = torch.sigmoid(x @ module.gate.weight.T + module.gate.bias)
    assert_close(module(x) - module.output.bias, plain * gates)


def test_the_gate_is_read_from_what_asks_not_from_the_memory():
    module = randomized(GatedAttention(*SIZES))
    x, memory = tokens(), tokens(7)
    heads = standard(module)
    heads.output = torch.nn.Identity()
    expected = module.output(heads(x, memory) * torch.sigmoid(module.gate(x)))
    assert_close(module(x, memory), expected)

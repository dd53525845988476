"""The gated delta rule: recurrent, by chunks and by weights, and its known limits."""

import math

import pytest
import torch
from tests.attention.variants.mechanisms import B, D, H, L, assert_same_function, build, tokens
from tests.helpers import assert_close, unchecked

from qkv.attention.cache import KeyValueCache
from qkv.attention.record import record_attention
from qkv.attention.variants.delta_rule import decays, delta_weights, gated_delta_rule, unit
from qkv.attention.variants.gated_delta import DeltaState, GatedDeltaAttention
from qkv.errors import ConfigError

V = 5  # width of a value, unlike that of a key


def inputs(length=L, *, past=False):
    """Queries, keys, values, log alpha, beta, and the memory of an earlier text."""
    double = {"dtype": torch.float64}
    q, k = (unit(torch.randn(B, H, length, D, **double)) for _ in range(2))
    v = torch.randn(B, H, length, V, **double)
    log_alpha = -torch.rand(B, H, length, **double).exp()
    beta = torch.rand(B, H, length, **double)
    memory = torch.randn(B, H, D, V, **double) if past else None
    return q, k, v, log_alpha, beta, memory


def by_token(q, k, v, log_alpha, beta, memory=None):
    """The rule as it is printed, with S of shape (V, D)."""
    s = torch.zeros(B, H, V, D, dtype=q.dtype) if memory is None else memory.transpose(2, 3)
    outputs = []
    for i in range(q.shape[2]):
        alpha, b = log_alpha[:, :, i, None, None].exp(), beta[:, :, i, None, None]
        kk = k[:, :, i, :, None] * k[:, :, i, None, :]
        vk = v[:, :, i, :, None] * k[:, :, i, None, :]
        s = alpha * s @ (torch.eye(D, dtype=q.dtype) - b * kk) + b * vk
        outputs.append((s @ q[:, :, i, :, None])[..., 0])
    return torch.stack(outputs, 2), s.transpose(2, 3)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10, 11, 64])
def test_chunks_of_any_size_equal_the_recurrence(chunk, past):
    *given, memory = inputs(past=past)
    for ours, theirs in zip(
        gated_delta_rule(*given, memory, chunk=chunk), by_token(*given, memory), strict=True
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("length", [63, 64, 65, 131])
def test_texts_of_several_chunks_equal_the_recurrence(length):
    given = inputs(length, past=True)
    for ours, theirs in zip(gated_delta_rule(*given), by_token(*given), strict=True):
        assert_close(ours, theirs)


def test_equals_its_weights():
    q, k, v, log_alpha, beta, _ = inputs()
    assert_close(delta_weights(q, k, log_alpha, beta) @ v, by_token(q, k, v, log_alpha, beta)[0])


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_gradients_equal_finite_differences(chunk):
    given = [x[:, :, :5].requires_grad_() for x in inputs()[:5]]
    memory = inputs(past=True)[5].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: gated_delta_rule(*x, chunk=chunk), (*given, memory), fast_mode=True
    )


def test_the_module_equals_the_recurrence():
    module = build("gated-delta")

    def function(x):
        q, k, v = (
            y(x).unflatten(-1, (H, D)).transpose(1, 2)
            for y in (module.query, module.key, module.value)
        )
        q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
        step = (module.alpha(x) + module.step_bias).exp().log1p()
        log_alpha = (-module.log_rate.exp() * step).transpose(1, 2)
        beta = 1 / (1 + (-module.beta(x)).exp()).transpose(1, 2)
        s = torch.zeros(B, H, D, D, dtype=x.dtype)
        heads = []
        for i in range(x.shape[1]):
            s = s * log_alpha[:, :, i, None, None].exp()
            error = v[:, :, i] - (k[:, :, i, None] @ s)[:, :, 0]
            s = s + k[:, :, i, :, None] * (beta[:, :, i, None] * error)[:, :, None]
            heads.append((q[:, :, i, None] @ s)[:, :, 0])
        return module.output(torch.stack(heads, 1).flatten(2))

    assert_same_function(module, function, tokens())


def test_by_hand():
    # One head of width 1, q = k = 1. S = 1/2 * 8 = 4; then alpha S = 2, and
    # S = 2 + 1/4 (6 - 2) = 3: a quarter of the way from what the memory returns to the value.
    one = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    v = torch.tensor([8.0, 6.0], dtype=torch.float64).view(1, 1, 2, 1)
    log_alpha = torch.tensor([0.7, 0.5], dtype=torch.float64).log().view(1, 1, 2)
    beta = torch.tensor([0.5, 0.25], dtype=torch.float64).view(1, 1, 2)
    outputs, memory = gated_delta_rule(one, one, v, log_alpha, beta)
    assert_close(outputs.flatten(), torch.tensor([4.0, 3.0], dtype=torch.float64), 1e-15)
    assert_close(memory.flatten(), torch.tensor([3.0], dtype=torch.float64), 1e-15)


def orthonormal_keys(n):
    return torch.linalg.qr(torch.randn(B, H, D, D, dtype=torch.float64))[0][:, :, :n]


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_without_decay_and_with_beta_1_orthonormal_keys_recall_their_values(chunk):
    k, v = orthonormal_keys(D), torch.randn(B, H, D, V, dtype=torch.float64)
    gates = torch.zeros(B, H, D, dtype=torch.float64), torch.ones(B, H, D, dtype=torch.float64)
    _, memory = gated_delta_rule(k, k, v, *gates, chunk=chunk)
    assert_close(k @ memory, v)


def test_with_beta_1_a_key_that_occurs_again_returns_its_last_value():
    k = orthonormal_keys(3)[:, :, [0, 1, 2, 1]]
    v = torch.randn(B, H, 4, V, dtype=torch.float64)
    gates = torch.zeros(B, H, 4, dtype=torch.float64), torch.ones(B, H, 4, dtype=torch.float64)
    _, memory = gated_delta_rule(k, k, v, *gates)
    assert_close(k @ memory, v[:, :, [0, 3, 2, 3]])


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("log_alpha", [-math.inf, -1e4])
def test_with_alpha_0_only_the_last_token_is_kept(log_alpha, chunk):
    q, k, v, gate, beta, memory = inputs(past=True)
    gate = torch.full_like(gate, log_alpha)
    outputs, _ = gated_delta_rule(q, k, v, gate, beta, memory, chunk=chunk)
    assert_close(outputs, (beta * (q * k).sum(-1))[..., None] * v)


def test_for_orthogonal_keys_it_is_linear_attention_with_decay():
    """Nothing is stored for a new key that a correction could remove (as in Mamba2)."""
    q, _, v, log_alpha, beta, _ = (None if x is None else x[:, :, :D] for x in inputs())
    k = orthonormal_keys(D)
    weights = (q @ k.transpose(2, 3)) * decays(log_alpha) * beta[:, :, None]
    assert_close(gated_delta_rule(q, k, v, log_alpha, beta)[0], weights @ v)
    k = unit(k + 0.5)
    weights = (q @ k.transpose(2, 3)) * decays(log_alpha) * beta[:, :, None]
    assert (gated_delta_rule(q, k, v, log_alpha, beta)[0] - weights @ v).abs().max() > 0.01


def test_for_a_small_beta_corrections_are_of_second_order():
    q, k, v, log_alpha, beta, _ = inputs()
    weights = (q @ k.transpose(2, 3)) * decays(log_alpha) * beta[:, :, None]
    linear = weights @ v
    errors = [
        (gated_delta_rule(q, k, v, log_alpha, beta * s)[0] / s - linear).abs().max() / s
        for s in (1e-4, 1e-5)
    ]
    assert errors[0] > 0
    assert_close(errors[0], errors[1], 1e-3)


def test_small_decays_after_a_large_one_are_exact_in_float32():
    log_alpha = torch.tensor([-0.5, -1e4, -1e-3, -2e-3])
    expected = decays(log_alpha.double().view(1, 1, 4))
    assert_close(decays(log_alpha.view(1, 1, 4)).double(), expected, 1e-6)
    assert_close(expected[0, 0, 3, 1], torch.tensor(-3e-3, dtype=torch.float64).exp(), 1e-9)


def test_half_precision_computes_in_float32_also_under_autocast():
    given = [x.bfloat16() for x in inputs(past=True)]
    outputs, memory = gated_delta_rule(*given, chunk=3)
    assert (outputs.dtype, memory.dtype) == (torch.bfloat16, torch.float32)
    exact = gated_delta_rule(*(x.float() for x in given), chunk=3)
    assert torch.equal(outputs, exact[0].bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gated_delta_rule(*(x.float() for x in given), chunk=3)[0], exact[0])


def test_the_state_has_one_size_at_any_length():
    module, state = build("gated-delta"), DeltaState()
    module(tokens(1), cache=state)
    first = state.sums.shape
    module(tokens(700), cache=state)
    assert state.sums.shape == first == (B, H, D, D)
    assert state.length == 701


def test_joined_states_equal_apart():
    module, x = build("gated-delta"), tokens()
    states = [DeltaState() for _ in range(3)]
    module(x[:1, :7], cache=states[0])
    module(x[1:, :4], cache=states[1])
    states[0].join(states[1], (1, 1))
    states[0].join(states[2], (2, 1))  # no tokens yet
    more = torch.cat((x[:, 7:], tokens(4)[:1]))
    ours = module(more, cache=states[0])
    assert_close(ours[:1], module(x[:1])[:, 7:])
    assert_close(ours[1:2], module(torch.cat((x[1:, :4], x[1:, 7:]), 1))[:, 4:])
    assert_close(ours[2:], module(more[2:]))
    assert states[0].length == 11


def test_initial_gates_are_those_of_mamba2():
    torch.manual_seed(3)
    module = GatedDeltaAttention(10, 5)
    rate = module.log_rate.exp()
    step = torch.nn.functional.softplus(module.step_bias)
    assert ((rate > 1) & (rate < 16)).all()
    assert ((step > 0.00099) & (step < 0.101)).all()
    assert [name for name, _ in module.named_parameters() if name.startswith("beta")] == [
        "beta.weight"
    ]


def test_what_it_cannot_do_is_refused():
    x, module = tokens(), build("gated-delta")
    with pytest.raises(ConfigError, match=r"causal = False; the gated delta rule writes tokens"):
        GatedDeltaAttention(12, 3, causal=False)
    with pytest.raises(ConfigError, match=r"got a KeyValueCache; it decodes with a DeltaState"):
        module(x, cache=KeyValueCache())
    with (
        unchecked(),
        pytest.raises(ConfigError, match=r"the gated delta rule got a mask of shape \(11, 11\)"),
    ):
        module(x, mask=torch.ones(L, L, dtype=torch.bool))
    with record_attention(module), pytest.raises(ConfigError, match="record without a cache"):
        module(x, cache=DeltaState())

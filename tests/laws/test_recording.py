"""Recording is inert, and what it shows is what was used."""

from functools import cache

import pytest
import torch
from tests.helpers import (
    MODELS,
    PROMPTED,
    S,
    T,
    assert_close,
    problem,
    right_mask,
    rnn,
    transformer,
)

from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.multiplicative import GeneralAttention
from qkv.attention.record import record_attention
from qkv.blocks.positions import ALiBi

build = cache(lambda name: MODELS[name]())
# What reads a prompt records more than the target's steps: tests/laws/test_prompts.py.
attentive = [name for name in MODELS if name not in ("no-attention", *PROMPTED)]
every_attentive_model = pytest.mark.parametrize("name", attentive)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: transformer(dropout=0.2, attention_dropout=0.3),
        lambda: rnn(dropout=0.2),
        MODELS["luong-gru-local-p"],
        MODELS["rotary"],
        MODELS["relative-bias"],
    ],
)
def test_looking_changes_no_bit_of_outputs_and_gradients(make, training):
    model, (source, target, mask) = make().train(training), problem()
    used = [p for p in model.parameters() if p.requires_grad]

    def run():
        torch.manual_seed(7)
        logits = model(source, target, source_mask=mask)
        return logits, torch.autograd.grad(logits.square().sum(), used, allow_unused=True)

    logits, gradients = run()
    with record_attention(model) as weights:
        seen_logits, seen_gradients = run()
    assert len(weights) > 0
    assert torch.equal(logits, seen_logits)
    for gradient, seen in zip(gradients, seen_gradients, strict=True):
        assert gradient is seen is None or torch.equal(gradient, seen)


@every_attentive_model
def test_over_decoding_steps_the_record_is_that_of_the_whole_pass(name):
    model, (source, target, mask) = build(name), problem()
    with record_attention(model) as whole, torch.no_grad():
        model(source, target, source_mask=mask)
    with record_attention(model) as steps, torch.no_grad():
        state = model.start(source, mask)
        for tokens in target.split([3, 1, 1, 2], 1):
            model.step(tokens, state)
    assert set(steps) == set(whole)
    for module in whole:
        assert_close(steps[module], whole[module])


@every_attentive_model
def test_recorded_weights_are_zero_on_padding_and_the_future(name):
    model, (source, target, mask) = build(name), problem()
    with record_attention(model) as weights:
        model(source, target, source_mask=mask)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for module, recorded in weights.items():
        assert not recorded.requires_grad
        sums = recorded.sum(-1)
        if "local-p" not in name and "local-m" not in name:
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)
        if recorded.shape[-1] == S:  # over the source
            assert (recorded.masked_select(~mask[:, None, None, :]) == 0).all()
        else:
            assert recorded.shape[2:] == (T, T), module
            assert (recorded[..., future] == 0).all()


@pytest.mark.parametrize("n_kv_heads", [None, 3, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_recorded_weights_times_values_are_the_output(causal, n_kv_heads):
    module = MultiHeadAttention(
        24, 6, n_kv_heads=n_kv_heads, causal=causal, position_bias=ALiBi(6)
    ).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    with record_attention(module) as record:
        out = module(x, mask=attention_mask(right_mask([5, 7], 7)))
    weights = record["attention"]
    assert weights.shape == (2, 6, 7, 7)
    values = module.value(x).unflatten(-1, (-1, 4)).transpose(1, 2)  # (B, G, K, D)
    heads = weights @ values.repeat_interleave(6 // values.shape[1], 1)
    assert_close(module.output(heads.transpose(1, 2).flatten(2)), out)


def test_recorded_weights_times_the_memory_are_the_context():
    module = GeneralAttention(5, 3).double()
    x, memory = torch.randn(2, 7, 5).double(), torch.randn(2, 11, 3).double()
    with record_attention(module) as record:
        context = module(x, memory, mask=attention_mask(right_mask([11, 4], 11)))
    weights = record["attention"]
    assert weights.shape == (2, 1, 7, 11)
    assert_close(weights[:, 0] @ memory, context)

"""What every variant promises: the laws of multi-head attention, in a block and in a stack."""

import pytest
import torch
from tests.attention.variants.mechanisms import (
    CASES,
    D_MODEL,
    MAPS,
    MECHANISMS,
    RECURRENT,
    B,
    D,
    H,
    L,
    build,
    by_the_output,
    make_cache,
    tokens,
)
from tests.helpers import assert_close, randomized, right_mask, unchecked

from qkv.attention.cache import KeyValueCache
from qkv.attention.masks import attention_mask, positions_from_mask
from qkv.attention.record import record_attention
from qkv.blocks.block import Block, LayerCache
from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, LengthError, ShapeError

every_case = pytest.mark.parametrize(("name", "causal"), CASES)
every_mechanism = pytest.mark.parametrize("name", list(MECHANISMS))
SELF_ONLY = (
    "sliding",
    "dilated",
    "global",
    "streaming",
    "relative",
    "latent",
    "gated-delta",
    "top-k",
)
NO_PLAIN_MIX = ("relative", "differential", "latent")  # see their own tests
ROWS_SUM_TO_ONE = set(MECHANISMS) - {"sigmoid", "sink", "differential", "gated-delta"}


def stack_of(name, causal=True, norm_first=False):
    config = BlockConfig(d_model=D_MODEL, n_heads=H, d_ff=5, norm_first=norm_first)
    make = MECHANISMS[name]
    blocks = Stack(config, 2, make_block=lambda i: Block(config, self_attention=make(causal)))
    return randomized(blocks)


def caches_of(name):
    caches = [LayerCache() for _ in range(2)]
    for cache in caches:
        cache.self_attention = make_cache(name)
    return caches


def real_tokens(*rows):
    return torch.tensor([[token == "#" for token in row] for row in rows])


def random_mask(name):
    """A mask for each head and query where the mechanism can take one."""
    shape = (B, H, 1, L) if name in RECURRENT else (B, H, L, L)
    mask = torch.rand(shape) < 0.6
    mask[0, 1] = False
    return mask


@every_mechanism
def test_a_future_token_changes_nothing(name):
    stack, x = stack_of(name), tokens()
    other = x.clone()
    other[:, 6:] += 1
    assert_close(stack(other)[:, :6], stack(x)[:, :6], 1e-13)
    assert (stack(other)[:, 6:] != stack(x)[:, 6:]).any()


@every_case
def test_padded_equals_alone(name, causal):
    stack, x = stack_of(name, causal, norm_first=True), tokens()
    together = stack(x, mask=attention_mask(right_mask([L, 7], L)))
    assert_close(together[:1], stack(x[:1]))
    assert_close(together[1:, :7], stack(x[1:, :7]))


@every_case
@pytest.mark.parametrize("padding", ["left", "gaps"])
def test_padded_anywhere_equals_alone(name, causal, padding):
    stack, x = stack_of(name, causal), tokens()
    real = right_mask([L, 7], L).flip(1)
    if padding == "gaps":
        real = real_tokens("##....#.###", ".#.###..##.")
    together = stack(x, mask=attention_mask(real), positions=positions_from_mask(real))
    for row in range(B):
        assert_close(together[row, real[row]][None], stack(x[row, real[row]][None]))


@every_mechanism
def test_padded_in_a_cache_equals_alone(name):
    """Rows whose prompts and continuations have different lengths: padding between real tokens."""
    stack, x, caches = stack_of(name), tokens(), caches_of(name)
    real = real_tokens("..##.######", "####...####")
    positions, steps, end = positions_from_mask(real), [], 0
    for part in x.split([4, 4, 1, 1, 1], 1):
        new = slice(end, end := end + part.shape[1])
        mask = attention_mask(real[:, :end])
        steps.append(stack(part, mask=mask, positions=positions[:, new], caches=caches))
    for row in range(B):
        alone = stack(x[row, real[row]][None])
        assert_close(torch.cat(steps, 1)[row, real[row]][None], alone)


@every_case
def test_nothing_to_attend_to_gives_zeros_forward_and_backward(name, causal):
    module, x = build(name, causal), tokens().requires_grad_()
    real = torch.ones(B, L, dtype=torch.bool)
    real[0] = False
    out = module(x, mask=attention_mask(real))
    bias = module.output.bias
    assert_close(out[0] + 1, (torch.zeros(D_MODEL) if bias is None else bias).expand(L, -1) + 1)
    gradients = torch.autograd.grad(out.square().sum(), [x, *by_the_output(module)])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][0] == 0).all()
    assert gradients[0][1].any()


@every_case
def test_every_parameter_has_a_gradient_in_a_stack(name, causal):
    stack = stack_of(name, causal)
    stack(tokens(), mask=attention_mask(right_mask([L, 7], L))).pow(3).sum().backward()
    without = [n for n, p in stack.named_parameters() if p.grad is None or not p.grad.any()]
    # A softmax does not see what all its scores share.
    assert [n for n in without if not n.endswith("key.bias") and "index_" not in n] == []


@every_mechanism
@pytest.mark.parametrize("chunks", [[1] * L, [5, 1, 1, 4], [L]])
def test_cached_equals_uncached(name, chunks):
    stack, x, caches = stack_of(name), tokens(), caches_of(name)
    steps = [stack(part, caches=caches) for part in x.split(chunks, 1)]
    assert_close(torch.cat(steps, 1), stack(x))
    assert caches[0].self_attention.length == L


@every_mechanism
def test_cached_equals_uncached_with_padding_between(name):
    stack, x, caches = stack_of(name), tokens(), caches_of(name)
    real = torch.rand(B, L) < 0.6
    real[:, 0] = True
    positions = positions_from_mask(real)
    at, steps = 0, []
    for part in x.split([4, 1, 1, 3, 2], 1):
        new = slice(at, at + part.shape[1])
        mask = attention_mask(real[:, : new.stop])
        steps.append(stack(part, mask=mask, positions=positions[:, new], caches=caches))
        at = new.stop
    whole = stack(x, mask=attention_mask(real), positions=positions)
    assert_close(torch.cat(steps, 1)[real], whole[real])


@every_mechanism
def test_reorder_equals_recompute(name):
    stack, x, caches = stack_of(name), tokens(), caches_of(name)
    rows = torch.tensor([1, 0, 1])
    for cache in caches:
        cache.reorder(rows)  # nothing is held yet
    stack(x[:, :7], caches=caches)
    for cache in caches:
        cache.reorder(rows)
    x = torch.cat((x[rows, :7], torch.randn(3, 4, D_MODEL, dtype=torch.float64)), 1)
    assert_close(stack(x[:, 7:], caches=caches), stack(x)[:, 7:])


@every_mechanism
def test_rewind_equals_never_stepped_or_is_refused(name):
    stack, x, caches = stack_of(name), tokens(), caches_of(name)
    stack(x[:, :7], caches=caches)
    caches[0].rewind(7)
    if name in (*RECURRENT, "streaming"):
        with pytest.raises(LengthError, match=r"cannot rewind to length 4: .* 7 tokens"):
            caches[0].rewind(4)
        return
    for cache in caches:
        cache.rewind(4)
    steps = stack(x[:, 7:], caches=caches)
    assert_close(steps, stack(torch.cat((x[:, :4], x[:, 7:]), 1))[:, 4:])


@every_case
@pytest.mark.parametrize("training", [False, True])
def test_recording_changes_no_bit(name, causal, training):
    stack, x = stack_of(name, causal).train(training), tokens()

    def run():
        out = stack(x)
        return out, torch.autograd.grad(out.square().sum(), by_the_output(stack))

    out, gradients = run()
    with record_attention(stack) as weights:
        seen, seen_gradients = run()
    assert list(weights) == ["blocks.0.self_attention", "blocks.1.self_attention"]
    assert torch.equal(seen, out)
    assert all(map(torch.equal, gradients, seen_gradients))


@pytest.mark.parametrize(
    ("name", "causal"), [case for case in CASES if case[0] not in NO_PLAIN_MIX]
)
def test_recorded_weights_times_values_are_the_output(name, causal):
    module, x, mask = build(name, causal), tokens(), random_mask(name)
    with record_attention(module) as record:
        out = module(x, mask=mask)
    values = module.value(x).unflatten(-1, (-1, D)).transpose(1, 2)  # (B, G, K, D)
    values = values.repeat_interleave(H // values.shape[1], 1).repeat(1, MAPS.get(name, 1), 1, 1)
    heads = record["attention"] @ values
    assert_close(module.join(heads, x), out)


@every_case
def test_recorded_weights_are_zero_where_the_mask_or_time_forbids(name, causal):
    module, mask = build(name, causal), random_mask(name)
    with record_attention(module) as record:
        module(tokens(), mask=mask)
    weights = record["attention"]
    assert weights.shape == (B, H * MAPS.get(name, 1), L, L)
    allowed = mask.repeat(1, MAPS.get(name, 1), 1, 1).expand(weights.shape)
    if causal:
        allowed = allowed & torch.ones(L, L, dtype=torch.bool).tril()
    assert (weights[~allowed] == 0).all()
    if name in ROWS_SUM_TO_ONE:
        some = (weights != 0).any(-1)
        assert some.any()
        assert_close(weights.sum(-1), some.double())


@pytest.mark.parametrize("name", [n for n in MECHANISMS if n not in (*RECURRENT, "streaming")])
def test_over_steps_the_record_is_that_of_the_whole_pass(name):
    module, x, cache = build(name), tokens(), make_cache(name)
    with record_attention(module) as whole:
        module(x)
    with record_attention(module) as steps:
        for part in x.split([4, 1, 1, 5], 1):
            module(part, cache=cache)
    assert_close(steps["attention"], whole["attention"])


@every_case
def test_a_memory_is_attended_to_or_refused(name, causal):
    module, x = build(name, causal), tokens()
    if name in SELF_ONLY or (name == "linear" and causal):
        with pytest.raises(ConfigError, match=r"Attention got a memory, .* self-attention only"):
            module(x, x)
        return
    assert torch.equal(module(x, x), module(x))
    if not causal:
        module.rotary, memory = None, tokens(7)
        whole = module(x, memory)
        assert whole.shape == x.shape
        assert_close(module(x[:, :3], memory), whole[:, :3])
        assert (module(x, memory + 1) != whole).any()


@every_case
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(L, L), "dtype torch.float32; expected torch.bool"),
        (torch.ones(B, L, dtype=torch.bool), r"shape \(2, 11\), .* \(2, 3, 11, 11\)"),
    ],
)
def test_what_is_no_mask_is_refused(name, causal, mask, message):
    module, x = build(name, causal), tokens()
    with unchecked(), pytest.raises(ShapeError, match=message):
        module(x, mask=mask)
    with unchecked(), record_attention(module), pytest.raises(ShapeError, match=message):
        module(x, mask=mask)


@every_mechanism
def test_sizes_that_do_not_divide_are_refused(name, monkeypatch):
    monkeypatch.setattr("tests.attention.variants.mechanisms.SIZES", (13, 3))
    with pytest.raises(ConfigError, match=r"d_model = 13 is not divisible by n_heads = [36]"):
        MECHANISMS[name](True)


def test_linear_attention_refuses_other_caches_and_masks():
    x = tokens()
    with pytest.raises(ConfigError, match=r"got a KeyValueCache; it can decode .* a LinearState"):
        build("linear")(x, cache=KeyValueCache())
    with pytest.raises(ConfigError, match=r"\(causal=False\) got a LinearState"):
        build("linear", False)(x, cache=make_cache("linear"))
    with pytest.raises(ConfigError, match=r"mask of shape \(11, 11\); keys are summed once"):
        build("linear")(x, mask=torch.ones(L, L, dtype=torch.bool))
    module = build("linear")
    with record_attention(module), pytest.raises(ConfigError, match="record without a cache"):
        module(x, cache=make_cache("linear"))

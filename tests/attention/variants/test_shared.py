"""Keys and values shared across layers: what a shared layer equals, and what its cache holds."""

import math

import pytest
import torch
from tests.helpers import assert_close, hybrid, randomized

from qkv.attention.cache import KeyValueCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.attention.variants.registry import key_sources
from qkv.attention.variants.shared import PassedKeys, SharedAttention, SharedCache
from qkv.blocks.positions import Rotary
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.models.hybrid import Hybrid, HybridConfig, SharingStack
from qkv.models.inspection import describe_attention, describe_memory
from qkv.training.loop import recompute_activations

B, L, D_MODEL, H = 2, 7, 12, 3
OPTIONS = {"n_kv_heads": 1, "causal": True, "rotary": Rotary(4)}
PATTERN = ("nope", "shared", "gated_delta", "attention", "shared", "window", "shared")


def build(**options):
    options = {**OPTIONS, **options}
    source = randomized(MultiHeadAttention(D_MODEL, H, **options))
    shared = randomized(SharedAttention(D_MODEL, H, **options), seed=1)
    return source, shared


def tokens():
    return torch.randn(B, L, D_MODEL, dtype=torch.float64)


def share(source, shared, earlier, x, **options):
    """Run the earlier layer, then the shared one."""
    passed = PassedKeys()
    source(earlier, cache=passed, **options)
    return shared(x, cache=SharedCache(passed), **options)


@pytest.mark.parametrize("n_kv_heads", [1, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_equals_standard_attention_with_the_keys_and_values_of_the_earlier_layer(
    n_kv_heads, causal
):
    source, shared = build(n_kv_heads=n_kv_heads, causal=causal)
    standard = randomized(MultiHeadAttention(D_MODEL, H, **OPTIONS | {"n_kv_heads": n_kv_heads}))
    standard.causal = causal
    standard.load_state_dict(source.state_dict())
    standard.load_state_dict(shared.state_dict(), strict=False)  # queries and output
    earlier, x = tokens().requires_grad_(), tokens().requires_grad_()
    outputs = share(source, shared, earlier, x), standard(x, earlier)
    assert_close(*outputs)
    gradients = [torch.autograd.grad(y.pow(3).sum(), [earlier, x]) for y in outputs]
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs)


def test_with_the_same_input_and_projections_it_is_the_earlier_layer():
    source, shared = build()
    shared.load_state_dict(
        {name: w for name, w in source.state_dict().items() if name[:3] not in ("key", "val")}
    )
    x = tokens()
    assert torch.equal(share(source, shared, x, x), source(x))


def test_a_value_by_hand():
    """Keys 0 and ln 3, and values 1 and 5: the second query weighs them by 1/4 and 3/4."""
    source = MultiHeadAttention(1, 1, bias=False, causal=True).double()
    shared = SharedAttention(1, 1, bias=False, causal=True).double()
    with torch.no_grad():
        for layer in (source.key, shared.query, shared.output):
            layer.weight.fill_(1)
        source.value.weight.fill_(4 / math.log(3))
    source.value.bias = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    earlier = torch.tensor([0, math.log(3)], dtype=torch.float64)[None, :, None]
    out = share(source, shared, earlier, torch.ones_like(earlier))
    assert_close(out.flatten(), torch.tensor([1.0, 4.0]))


def test_gradients_are_those_of_finite_differences():
    layers = ("nope", "shared", "attention", "shared")
    stack = hybrid(*layers, n_layers=4, d_model=6, n_heads=3, d_ff=5).model.stack
    x = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    assert isinstance(stack, SharingStack)
    positions = torch.arange(3)
    assert torch.autograd.gradcheck(lambda y: stack(y, positions=positions), x)


def test_recomputed_activations_give_the_same_gradients():
    model = hybrid("attention", "shared", "nope", "shared", n_layers=4).model.train()
    x = torch.randint(17, (3, 5))

    def gradients():
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    recompute_activations(model)
    assert all(map(torch.equal, gradients(), plain))


@pytest.mark.parametrize("layers", [("attention",), ("nope", "window"), ("gated_delta", "sink")])
def test_a_pattern_without_it_is_a_plain_stack(layers):
    window = 3 if "window" in layers else None
    assert type(hybrid(*layers, window=window).model.stack) is Stack


def test_sources_are_the_last_layers_with_keys_of_all_tokens():
    assert key_sources(PATTERN, 9) == {1: 0, 4: 3, 6: 3, 8: 7}
    assert key_sources(("attention", "window"), 9) == {}


def test_queries_turn_as_the_keys_do():
    rotary = [
        b.self_attention.rotary for b in hybrid(*PATTERN, n_layers=7, window=3).model.stack.blocks
    ]
    assert [one is None for one in rotary] == [True, True, True, False, False, False, False]


def test_a_shared_layer_has_no_projections_and_stores_nothing():
    model = hybrid("attention", "shared", n_layers=4).model
    names = dict(model.named_parameters())
    assert "stack.blocks.1.self_attention.query.weight" in names
    assert not [name for name in names if ".1.self_attention.key" in name]
    state = model.start(torch.zeros(1, 3, dtype=torch.long))
    kinds = [type(cache.self_attention) for cache in state.caches]
    assert kinds == [KeyValueCache, SharedCache] * 2
    assert [cache.self_attention.length for cache in state.caches] == [3] * 4
    whole, half = (
        describe_memory(hybrid(*layers, n_layers=4).model)[0]
        for layers in (("attention",), ("attention", "shared"))
    )
    (name,) = (key for key in whole if key.startswith("cache"))
    assert (whole[name], half[name]) == ("1.5 MB", "768.0 kB")
    (_, row) = describe_attention(model)
    assert (row["kind"], row["key heads"]) == ("SharedAttention", "of an earlier layer")


def test_rewound_equals_never_stepped():
    model, x = hybrid("attention", "shared", "nope", "shared").model, torch.randint(17, (3, 11))
    state = model.start(x[:, :3])
    model.step(x[:, 3:7], state)
    state.rewind(2)
    assert_close(model.step(x[:, 7:], state), model(torch.cat((x[:, :5], x[:, 7:]), 1))[:, 5:])


def test_recorded_weights_are_those_of_the_shared_keys():
    source, shared = build()
    earlier, x = tokens(), tokens()
    with record_attention(shared) as record:
        share(source, shared, earlier, x)
    weights = record["attention"]
    assert weights.shape == (B, H, L, L)
    assert_close(weights.sum(-1), torch.ones(B, H, L, dtype=torch.float64))
    positions = torch.arange(L)
    keys, _ = source.keys_values(earlier, positions)
    scores = shared.queries(x, positions) @ keys.transpose(-2, -1) / 2
    scores = scores.masked_fill(~torch.ones(L, L, dtype=torch.bool).tril(), -torch.inf)
    assert_close(weights, scores.softmax(-1))


def test_a_call_without_keys_is_refused():
    _, shared = build()
    x = tokens()
    with pytest.raises(ConfigError, match="got NoneType as its cache; expected a SharedCache"):
        shared(x)
    with pytest.raises(ConfigError, match="got KeyValueCache as its cache; expected a Shared"):
        shared(x, cache=KeyValueCache())
    for cache in (SharedCache(), SharedCache(KeyValueCache())):
        assert cache.empty
        with pytest.raises(ConfigError, match="no keys: expected a cache that the earlier layer"):
            shared(x, cache=cache)
    with pytest.raises(ConfigError, match=r"got a memory, .* self-attention only"):
        shared(x, x)


@pytest.mark.parametrize("layers", [("shared",), ("window", "shared"), ("linear", "shared")])
def test_a_pattern_without_keys_to_share_is_refused(layers):
    window = 3 if "window" in layers else None
    sizes = {"vocab_size": 17, "d_model": 22, "n_heads": 11, "d_ff": 13, "n_layers": 5}
    with pytest.raises(ConfigError, match="shared uses the keys of a layer before it that keeps"):
        HybridConfig(**sizes, layers=layers, window=window)


def test_a_single_shared_layer_learns():
    config = HybridConfig(
        vocab_size=17, d_model=22, n_heads=11, d_ff=13, n_layers=2, layers=("attention", "shared")
    )
    model = Hybrid(config)
    model(torch.randint(17, (3, 7))).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

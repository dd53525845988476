"""Models whose layers differ: what a pattern builds, how it decodes, and that files keep it."""

import json

import pytest
import torch
from tests.helpers import (
    TARGET_VOCAB,
    assert_close,
    hybrid,
    randomized,
    right_mask,
    to_left,
    unchecked,
)

from qkv.attention.cache import KeyValueCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.gated_delta import DeltaState, GatedDeltaAttention
from qkv.attention.variants.linear_state import LinearState
from qkv.attention.variants.registry import MECHANISMS
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.errors import ConfigError, LengthError
from qkv.generation.greedy import greedy
from qkv.inference.optimize import optimize
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.inspection import describe_memory
from qkv.models.llama import Llama, LlamaConfig

SIZES = {"vocab_size": 17, "d_model": 22, "n_heads": 11, "d_ff": 13, "n_layers": 5}
PATTERNS = {
    "3:1": ("gated_delta", "gated_delta", "gated_delta", "attention"),
    "delta": ("gated_delta",),
    "linear": ("attention", "linear"),
    "window and nope": ("window", "nope"),
    "shared": ("window", "attention", "shared", "nope", "shared"),
    "rest": ("sink", "softcap", "qk_norm", "gated", "sigmoid"),
    "differential": ("differential_v2",),
}
every_pattern = pytest.mark.parametrize("name", list(PATTERNS))


def build(name):
    layers = PATTERNS[name]
    return hybrid(*layers, window=3 if "window" in layers else None).model


def tokens(rows=3, length=11):
    return torch.randint(TARGET_VOCAB, (rows, length))


def test_a_pattern_is_repeated():
    model = Hybrid(HybridConfig(**SIZES))
    kinds = [type(block.self_attention) for block in model.stack.blocks]
    delta, full = GatedDeltaAttention, MultiHeadAttention
    assert kinds == [delta, delta, delta, full, delta]
    caches = [type(cache.self_attention) for cache in model.stack.new_caches()]
    assert caches == [DeltaState, DeltaState, DeltaState, KeyValueCache, DeltaState]
    model = Hybrid(HybridConfig(**SIZES, layers=("window", "nope", "linear"), window=7))
    first, second, third = (block.self_attention for block in model.stack.blocks[:3])
    assert type(first) is SlidingWindowAttention
    assert first.window == 6
    assert first.rotary is not None
    assert type(second) is MultiHeadAttention
    assert second.rotary is None
    assert type(third.new_cache()) is LinearState


@pytest.mark.parametrize("n_kv_heads", [None, 11, 1])
@pytest.mark.parametrize("tied_output", [False, True])
def test_attention_alone_is_a_llama_to_the_bit(n_kv_heads, tied_output):
    options = {**SIZES, "n_kv_heads": n_kv_heads, "tied_output": tied_output}
    torch.manual_seed(3)
    llama = Llama(LlamaConfig(**options))
    torch.manual_seed(3)
    model = Hybrid(HybridConfig(**options, layers=("attention",)))
    states = model.state_dict(), llama.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(map(torch.equal, states[0].values(), states[1].values()))
    x = torch.randint(17, (3, 7))
    assert torch.equal(model(x), llama(x))
    model(x).square().sum().backward()
    llama(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), llama.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_every_mechanism_can_be_a_layer():
    names = tuple(MECHANISMS)
    model = randomized(Hybrid(HybridConfig(**SIZES | {"n_layers": 13}, layers=names, window=3)))
    assert model(torch.randint(17, (3, 7))).isfinite().all()
    assert set(names) == {name for layers in PATTERNS.values() for name in layers}


@every_pattern
@pytest.mark.parametrize("parts", [[1] * 11, [5, 1, 1, 4]])
def test_cached_equals_uncached(name, parts):
    model, x = build(name), tokens()
    state = model.start(x[:, :0])
    steps = [model.step(part, state) for part in x.split(parts, 1)]
    assert_close(torch.cat(steps, 1), model(x))


@every_pattern
def test_generation_with_a_cache_equals_without(name):
    model, x = build(name), tokens(length=7)
    texts = x
    for _ in range(11):
        texts = torch.cat((texts, model(texts)[:, -1:].argmax(-1)), 1)
    outputs = greedy(model, x[:, :-1], start=x[:, -1], stop=-1, max_length=11)
    assert torch.equal(outputs, texts[:, 7:])


@every_pattern
def test_padded_rows_and_shared_prefixes_equal_alone(name):
    model, x = build(name), tokens(length=23)
    x[:, :9] = x[0, :9]  # long enough to be computed once
    lengths = [23, 13, 19]
    padded, mask = to_left(x, right_mask(lengths, 23))
    state = model.start(padded[:, :-1], mask[:, :-1])
    steps = [model.step(padded[:, -1:], state)]
    more = tokens(length=3)
    steps += [model.step(part, state) for part in more.split(1, 1)]
    together = torch.cat(steps, 1)
    for row, n in enumerate(lengths):
        alone = model(torch.cat((x[row, :n], more[row]))[None])[:, n - 1 :]
        assert_close(together[row][None], alone)


@every_pattern
def test_joined_and_reordered_states_equal_apart(name):
    model, x = build(name), tokens(length=13)
    first, second = model.start(x[:2, :8]), model.start(x[2:, :4])
    model.step(x[:2, 8:9], first)
    model.step(x[2:, 4:5], second)
    first.join(second)
    first.reorder(torch.tensor([2, 0]))
    more = tokens(rows=2, length=3)
    ours = model.step(more, first)
    assert_close(ours[:1], model(torch.cat((x[2:, :5], more[:1]), 1))[:, 5:])
    assert_close(ours[1:], model(torch.cat((x[:1, :9], more[1:]), 1))[:, 9:])


def test_a_state_with_a_recurrent_layer_cannot_be_rewound():
    model, x = build("3:1"), tokens()
    state = model.start(x[:, :3])
    model.step(x[:, 3:7], state)
    with pytest.raises(LengthError, match="a DeltaState stores the sum over 7 tokens"):
        state.rewind(2)


@every_pattern
@pytest.mark.parametrize("tied_output", [False, True])
def test_files_keep_the_pattern(tmp_path, name, tied_output):
    config = HybridConfig(
        **SIZES,
        layers=PATTERNS[name],
        window=3 if "window" in PATTERNS[name] else None,
        tied_output=tied_output,
    )
    model = randomized(Hybrid(config), torch.float32)
    save_checkpoint(Checkpoint(model), tmp_path / "made")
    raw = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("qkv_hybrid", ["Hybrid"])
    assert raw["layers"] == list(PATTERNS[name])
    again = load_checkpoint(tmp_path / "made").model
    assert again.config == config
    x = torch.randint(17, (3, 7))
    assert torch.equal(again(x), model(x))


def test_a_pattern_that_is_not_that_of_the_file_is_refused(tmp_path):
    save_checkpoint(Checkpoint(Hybrid(HybridConfig(**SIZES))), tmp_path / "made")
    path = tmp_path / "made" / "config.json"
    raw = json.loads(path.read_text())
    for layers, message in (
        (["attention"], r"stack\.blocks\.0\.self_attention\.(beta|alpha|log_rate|step_bias)"),
        (["delta"], r"layers\[0\] = 'delta' is unknown; expected one of attention, nope"),
        ([], r"layers = \(\); expected a list of at least one of attention"),
        ("attention", r"layers = 'attention'; expected a list"),
    ):
        path.write_text(json.dumps({**raw, "layers": layers}))
        with pytest.raises(Exception, match=message):
            load_checkpoint(tmp_path / "made")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, r"layers = \(\); expected a list of at least one of attention, nope"),
        ({"layers": ("attention", "mamba")}, r"layers\[1\] = 'mamba' is unknown; expected one of"),
        ({"layers": ("nope",) * 6}, "layers has 6 names, but n_layers = 5; expected at most one"),
        ({"layers": ("window",)}, "window = None with layers = window; expected a window if"),
        ({"layers": ("nope",), "window": 3}, "window = 3 with layers = nope; expected a window if"),
        ({"layers": ("window",), "window": 1}, "window = 1; expected at least 2"),
    ],
)
def test_a_pattern_that_cannot_be_built_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        HybridConfig(**SIZES, **options)


@every_pattern
def test_an_optimized_model_computes_the_same(name):
    model = build(name).float()
    fast, x = optimize(model, dtype="float32"), tokens()
    with torch.inference_mode():
        state = fast.start(x[:, :2])
        steps = [fast.step(part, state) for part in x[:, 2:].split(1, 1)]
        whole = model.double()(x)[:, 2:]
    assert_close(torch.cat(steps, 1).double(), whole, 1e-4)


def test_memory_of_a_cache_counts_layers_that_grow():
    (row, *_) = describe_memory(build("3:1"))  # one of five layers has keys and values
    (single, *_) = describe_memory(hybrid("attention", n_layers=1).model)
    (name,) = (key for key in row if key.startswith("cache"))
    assert row[name] == single[name]


def test_a_rewind_that_one_layer_refuses_changes_no_layer():
    config = HybridConfig(
        vocab_size=31,
        d_model=16,
        n_heads=4,
        d_ff=24,
        n_layers=2,
        layers=("attention", "gated_delta"),
    )
    model = Hybrid(config).eval().double()
    tokens = torch.randint(0, 31, (2, 7))
    state = model.start(tokens[:, :1])
    model.step(tokens[:, :4], state)
    with pytest.raises(LengthError, match="cannot rewind to length"):
        state.rewind(3)
    assert state.length == 4
    whole = model(torch.cat((tokens[:, :1], tokens[:, :6]), 1))
    torch.testing.assert_close(model.step(tokens[:, 4:6], state), whole[:, 5:], rtol=0, atol=1e-12)


def test_no_tokens_give_no_logits():
    config = HybridConfig(
        vocab_size=31, d_model=16, n_heads=4, d_ff=24, n_layers=1, layers=("gated_delta",)
    )
    assert Hybrid(config)(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 31)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (["attention"],)}, r"layers\[0\] = \['attention'\] is unknown"),
        ({"layers": ("window",), "window": 2.5}, "window = 2.5; expected at least 2"),
        ({"layers": ("window",), "window": "3"}, "window = 3; expected at least 2"),
    ],
)
def test_names_and_windows_of_another_type_are_refused(fields, message):
    sizes = {"vocab_size": 31, "d_model": 16, "n_heads": 4, "d_ff": 24, "n_layers": 1}
    with unchecked(), pytest.raises(ConfigError, match=message):
        HybridConfig(**sizes, **fields)

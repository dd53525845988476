"""A cache that drops what no window sees gives what a cache of everything gives."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.attention.cache import KeyValueCache
from qkv.attention.record import record_attention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.attention.window_cache import WindowCache
from qkv.blocks.state import DecodingState
from qkv.errors import LengthError
from qkv.inference.optimize import optimize
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.llama import Llama, LlamaConfig

VOCAB, WINDOW, SPARE = 37, 5, 3  # a query sees 4 keys before its own
SIZES = {"vocab_size": VOCAB, "d_model": 20, "n_heads": 2, "d_ff": 29, "n_layers": 3}
MODELS = {
    "llama": lambda: Llama(LlamaConfig(**SIZES, window=WINDOW, n_kv_heads=1)),
    "upper layers": lambda: Llama(LlamaConfig(**SIZES, window=WINDOW, first_window_layer=1)),
    "hybrid": lambda: Hybrid(HybridConfig(**SIZES, layers=("window", "nope"), window=WINDOW)),
}
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def build(name):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Keep few tokens, so that a short text drops some."""
    monkeypatch.setattr(
        SlidingWindowAttention, "new_cache", lambda self: WindowCache(self.reach, spare=SPARE)
    )


def window_caches(state):
    own = [layer.self_attention for layer in state.caches]
    return [one for one in own if isinstance(one, WindowCache)]


def everything(state):
    """The same empty state with caches that keep all."""
    state = copy.deepcopy(state)
    for layer in state.caches:
        layer.self_attention = KeyValueCache()
    return state


def tokens(rows, n, seed):
    return torch.randint(VOCAB, (rows, n), generator=torch.Generator().manual_seed(seed))


class Pair:
    """A state with windows and one with everything, which go through the same."""

    def __init__(self, model, rows):
        self.model = model
        self.windows = DecodingState(model.stack.new_caches(), n_rows=rows)
        self.all = everything(self.windows)

    def step(self, new, mask=None):
        with torch.no_grad():
            ours, theirs = (self.model.step(new, s, mask) for s in (self.windows, self.all))
        real = slice(None) if mask is None else mask
        torch.testing.assert_close(ours[real], theirs[real], rtol=1e-12, atol=1e-12)

    def each(self, change):
        for state in (self.windows, self.all):
            change(state)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["step", "prompt", "reorder", "rewind", "join"]), st.integers(0, 99)),
    min_size=4,
    max_size=8,
)


@every_model
@settings(max_examples=3)
@given(changes=CHANGES, padded=st.booleans())
def test_whatever_happens_it_equals_a_cache_of_everything(name, changes, padded):
    model, pair, rows = build(name), Pair(build(name), 2), 2
    first = tokens(2, 11, 0)
    pair.step(first, torch.arange(11) >= torch.tensor([[0], [4]]) if padded else None)
    for kind, seed in changes:
        if kind == "step":
            pair.step(tokens(rows, 1, seed))
        elif kind == "prompt":
            pair.step(tokens(rows, 7 + seed % 20, seed))
        elif kind == "reorder":
            chosen = torch.randint(rows, (2,), generator=torch.Generator().manual_seed(seed))
            pair.each(lambda state, chosen=chosen: state.reorder(chosen))
            rows = 2
        elif kind == "rewind":
            back = min(1 + seed % SPARE, pair.all.length)
            pair.step(tokens(rows, back, seed))
            pair.each(lambda state, back=back: state.rewind(state.length - back))
        elif rows < 5:
            other = Pair(model, 1)
            other.step(tokens(1, 3 + seed % 40, seed))
            pair.windows.join(other.windows)
            pair.all.join(other.all)
            rows += 1
    for seed in range(4):
        pair.step(tokens(rows, 1, seed))


@every_model
@settings(max_examples=2)
@given(holes=st.lists(st.booleans(), min_size=60, max_size=60), seed=st.integers(0, 9))
def test_padding_anywhere(name, holes, seed):
    pair, mask = Pair(build(name), 3), torch.tensor(holes).view(3, 20)
    mask[:, 0] = True
    new = tokens(3, 20, seed)
    for columns in torch.arange(20).split([1, 5, 1, 8, 5]):
        pair.step(new[:, columns], mask[:, columns])
    for i in range(4):
        pair.step(tokens(3, 1, i))


@every_model
def test_memory_is_bounded(name):
    model, most = build(name), 4 * (WINDOW - 1 + SPARE)
    state = model.start(tokens(2, 301, 0))
    sizes = set()
    with torch.no_grad():
        for i in range(31):
            model.step(tokens(2, 1, i), state)
            sizes |= {one._keys.shape[2] for one in window_caches(state)}
            assert all(one.length == 301 + i + 1 for one in window_caches(state))
    assert window_caches(state)
    assert max(sizes) <= most


def test_a_step_rarely_copies():
    one, firsts = WindowCache(16, spare=16), set()
    for _ in range(320):
        one.update(lambda: (torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)))
        firsts.add(one._first)
    assert len(firsts) <= 320 / 32
    assert one.stored < 64


@every_model
def test_it_rewinds_as_far_as_it_says(name):
    pair = Pair(build(name), 2)
    pair.step(tokens(2, 101, 0))
    least = max(one._least for one in window_caches(pair.windows))
    message = f"cannot rewind to length {least - 1}: of 101 tokens, a window of 4 keeps the last 7"
    before = copy.deepcopy(pair.windows)
    with pytest.raises(LengthError, match=f"{message}; expected at least {least}"):
        pair.windows.rewind(least - 1)
    assert [c.self_attention.length for c in pair.windows.caches] == [101] * 3
    assert pair.windows.length == before.length
    pair.each(lambda state: state.rewind(least))
    pair.step(tokens(2, 9, 1))


@every_model
def test_a_shared_prefix_is_computed_once(name):
    model = build(name)
    prompts = tokens(3, 40, 0)
    prompts[:, :30] = prompts[:1, :30]
    with torch.no_grad():
        state = model.start(prompts)
        logits = model.step(tokens(3, 1, 1), state)
        apart = model(torch.cat((prompts, tokens(3, 1, 1)), 1))[:, -1:]
    torch.testing.assert_close(logits, apart, rtol=1e-12, atol=1e-12)


@every_model
def test_recorded_weights_cover_the_whole_text(name):
    pair, found = Pair(build(name), 2), []
    pair.step(tokens(2, 33, 0))
    for state in (pair.windows, pair.all):
        with record_attention(pair.model) as weights, torch.no_grad():
            pair.model.step(tokens(2, 2, 1), state)
        found.append(dict(weights))
    for layer, ours in found[0].items():
        assert ours.shape == (2, 2, 2, 35)
        torch.testing.assert_close(ours, found[1][layer], rtol=1e-12, atol=1e-12)


def test_optimized_models_have_it_too():
    model = copy.deepcopy(build("llama")).float()
    fast = optimize(model)
    states = [one.start(tokens(2, 50, 0)) for one in (fast, model)]
    for i in range(20):
        ours, theirs = (
            one.step(tokens(2, 1, i), s) for one, s in zip((fast, model), states, strict=True)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(one.stored < 30 for one in window_caches(states[0]))


def test_what_needs_every_key_keeps_it(monkeypatch):
    monkeypatch.undo()
    window = {"window": 3, "causal": True}
    assert type(SlidingWindowAttention(8, 2, **window).new_cache()) is WindowCache
    assert DilatedWindowAttention(8, 2, dilation=2, **window).new_cache().window == 6
    bias = {"position_bias": lambda queries, keys: queries[:, None] - keys}
    plain = [
        SlidingWindowAttention(8, 2, window=3),
        SlidingWindowAttention(8, 2, **window, **bias),
        StreamingAttention(8, 2, window=3),
    ]
    assert [type(one.new_cache()) for one in plain] == [KeyValueCache] * 3

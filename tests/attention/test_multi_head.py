import pytest
import torch
from tests.helpers import assert_close, randomized

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="d_model = 10 is not divisible by n_heads = 3"):
        MultiHeadAttention(10, 3)


@pytest.mark.parametrize("n_kv_heads", [4, 12])
def test_key_heads_must_divide_heads(n_kv_heads):
    with pytest.raises(ConfigError, match=f"n_heads = 6 .* by n_kv_heads = {n_kv_heads}"):
        MultiHeadAttention(12, 6, n_kv_heads=n_kv_heads)


def test_a_given_head_width_frees_the_number_of_heads():
    attention = MultiHeadAttention(10, 3, d_head=7)
    assert attention.query.weight.shape == (21, 10)
    assert attention.output.weight.shape == (10, 21)
    assert attention(torch.randn(2, 5, 10)).shape == (2, 5, 10)


def test_biases():
    def biases(**options):
        attention = MultiHeadAttention(6, 3, **options)
        names = ("query", "key", "value", "output")
        return [getattr(attention, name).bias is not None for name in names]

    assert biases() == [True] * 4
    assert biases(bias=False) == [False] * 4
    assert biases(bias=False, qkv_bias=True) == [True, True, True, False]
    assert biases(qkv_bias=False) == [False, False, False, True]


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3])
def test_grouped_heads_are_multi_head_attention_with_repeated_weights(n_kv_heads):
    grouped = randomized(MultiHeadAttention(12, 6, n_kv_heads=n_kv_heads))
    full = MultiHeadAttention(12, 6).double()
    assert grouped.key.weight.shape == (2 * n_kv_heads, 12)
    for name in ("query", "output"):
        getattr(full, name).load_state_dict(getattr(grouped, name).state_dict())
    for name in ("key", "value"):
        for ours, theirs in zip(
            getattr(full, name).parameters(), getattr(grouped, name).parameters(), strict=True
        ):
            heads = theirs.unflatten(0, (n_kv_heads, 2)).repeat_interleave(6 // n_kv_heads, 0)
            ours.data.copy_(heads.flatten(0, 1))
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert_close(grouped(x), full(x))


def test_a_memory_is_projected_once():
    attention = randomized(MultiHeadAttention(6, 3))
    x, memory = torch.randn(2, 5, 6).double(), torch.randn(2, 7, 6).double()
    cache = MemoryCache()
    first = attention(x, memory, cache=cache)
    assert_close(first, attention(x, memory))
    # The second call must not read the memory again: nothing of another one is seen.
    assert torch.equal(attention(x, torch.zeros_like(memory), cache=cache), first)


def test_positions_count_on_from_the_cache():
    seen = []

    def rotary(x, positions):
        seen.append(positions.tolist())
        return x

    attention = MultiHeadAttention(6, 3, rotary=rotary)
    cache = KeyValueCache()
    attention(torch.randn(2, 5, 6), cache=cache)
    attention(torch.randn(2, 2, 6), cache=cache)
    assert seen == [[0, 1, 2, 3, 4]] * 2 + [[5, 6]] * 2  # queries, then keys

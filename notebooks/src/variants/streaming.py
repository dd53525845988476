# %% [markdown] tags=["intro"]
# # Streaming
#
# **What changes: the mask, and the cache.** A query attends to the first $s$ tokens (the sinks), its own token, and the last $w$ tokens before it:
#
# $$N(i) = \lbrace j \le i : j \lt s \quad \mathrm{or} \quad i - j \le w \rbrace$$
#
# The tokens in between are discarded, so decoding takes constant time and memory per token, for any length. Xiao et al. 2023, section 3.2. In
# the library: [`streaming.py`](src/qkv/attention/variants/streaming.py) and
# [`streaming_cache.py`](src/qkv/attention/variants/streaming_cache.py).

# %% tags=["scratch"]
from qkv.attention.variants.streaming import StreamingAttention


def streamed(queries, keys, values, s, w):
    place = torch.arange(17)
    distance = place[:, None] - place
    seen = (distance >= 0) & ((place < s) | (distance <= w))
    scores = (queries @ keys.mT / 8**0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ values


module = StreamingAttention(24, 3, n_sinks=2, window=4).double()
assert_equal(streamed(queries, keys, values, 2, 4), module.attend(queries, keys, values, None))

# %% tags=["limit"]
# A text that is not longer than the window: causal attention. And token by token, with a cache that keeps 2 + 4 + 1 keys: the same.
enough = StreamingAttention(24, 3, n_sinks=2, window=17).double()
assert_equal(
    enough.attend(queries, keys, values, None), attention(queries, keys, values, causal=True)
)
from qkv.attention.variants.streaming_cache import StreamingCache

cache = StreamingCache(n_sinks=2, window=4)
with torch.no_grad():
    one_by_one = torch.cat([module(x[:, t : t + 1], cache=cache) for t in range(17)], 1)
    assert_equal(one_by_one, module(x))

# %% tags=["make"]
NAME = "streaming"


def make(d_model, n_heads, layer):
    return StreamingAttention(d_model, n_heads, n_sinks=2, window=4)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests.** It wins in cost: time per token and memory do not grow, so it can decode without end.
#
# **It loses recall**, by more than 30 points, and copying, by more than 10: tokens that are neither among the first two nor among the last five are gone. Streaming keeps a model fluent, but it does not extend its memory.

# %% tags=["verdict"]
assert max(gain.values()) < 0.05
assert gain["recall"] < -0.3
assert gain["copying"] < -0.1

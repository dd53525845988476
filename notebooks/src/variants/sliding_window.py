# %% [markdown] tags=["intro"]
# # Sliding window
#
# **What changes: the mask.** A query attends to its own key and the $w$ keys before it, and to no others:
#
# $$z_i = \sum_{j = i - w}^{i} a_{ij} v_j$$
#
# The weights $a_{ij}$ are a softmax over the window alone. Time falls from $O(n^2 d)$ to $O(n w d)$; a stack of $l$ layers reaches back
# $l w$ positions. Longformer (Beltagy et al. 2020) attends to both sides; Mistral 7B (Jiang et al. 2023) is causal. In the library:
# [`sliding_window.py`](src/qkv/attention/variants/sliding_window.py).

# %% tags=["scratch"]
from qkv.attention.variants.sliding_window import SlidingWindowAttention


def windowed(queries, keys, values, w):
    distance = torch.arange(17)[:, None] - torch.arange(17)
    scores = queries @ keys.mT / 8**0.5
    scores = scores.masked_fill((distance < 0) | (distance > w), -torch.inf)
    return scores.softmax(-1) @ values


module = SlidingWindowAttention(24, 3, window=5, causal=True).double()
assert_equal(windowed(queries, keys, values, 5), module.attend(queries, keys, values, None))

# %% tags=["limit"]
# A window that holds all keys is causal attention.
everything = SlidingWindowAttention(24, 3, window=17, causal=True).double()
assert_equal(
    everything.attend(queries, keys, values, None), attention(queries, keys, values, causal=True)
)

# %% tags=["make"]
NAME = "sliding window"


def make(d_model, n_heads, layer):
    return SlidingWindowAttention(d_model, n_heads, window=4, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests.** It wins in the table of costs: at 2,048 tokens it is faster, and its advantage grows with the length of the text.
#
# **It loses all four**, as expected: two layers with a window of 4 reach 8 positions back. The symbol to copy is up to 8 positions back, but the value stored under a key is up to 15 back. Windows are useful
# where the relevant tokens are near, or where some layers attend to everything.

# %% tags=["verdict"]
assert max(gain.values()) < 0.05
assert gain["recall"] < -0.3

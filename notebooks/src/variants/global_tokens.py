# %% [markdown] tags=["intro"]
# # Global tokens
#
# **What changes: the mask.** All queries attend to the first $g$ tokens, which attend to all keys if the mask is not causal. The other tokens attend to a window:
#
# $$N(i) = \lbrace j : \lvert i - j \rvert \le w \quad \mathrm{or} \quad j \lt g \quad \mathrm{or} \quad i \lt g \rbrace$$
#
# Two layers then connect any two positions of an encoder, in time $O(n (w + g) d)$. Beltagy et al. 2020, "Longformer", section 3.1. In the
# library: [`global_tokens.py`](src/qkv/attention/variants/global_tokens.py).

# %% tags=["scratch"]
from qkv.attention.variants.global_tokens import GlobalTokensAttention


def with_global_tokens(queries, keys, values, g, w, causal):
    i, j = torch.arange(17)[:, None], torch.arange(17)
    seen = ((i - j).abs() <= w) | (i < g) | (j < g)
    if causal:
        seen = seen & (j <= i)
    scores = (queries @ keys.mT / 8**0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ values


for causal in (False, True):
    module = GlobalTokensAttention(24, 3, n_global=2, window=4, causal=causal).double()
    ours = with_global_tokens(queries, keys, values, 2, 4, causal)
    assert_equal(ours, module.attend(queries, keys, values, None))

# %% tags=["limit"]
# If all tokens are global, it is standard attention; if none is, a sliding window.
all_global = GlobalTokensAttention(24, 3, n_global=17, window=1, causal=True).double()
assert_equal(
    all_global.attend(queries, keys, values, None), attention(queries, keys, values, causal=True)
)
from qkv.attention.variants.sliding_window import SlidingWindowAttention

window = SlidingWindowAttention(24, 3, window=4, causal=True).double()
ours = with_global_tokens(queries, keys, values, 0, 4, causal=True)
assert_equal(ours, window.attend(queries, keys, values, None))

# %% tags=["make"]
NAME = "global tokens"


def make(d_model, n_heads, layer):
    return GlobalTokensAttention(d_model, n_heads, n_global=2, window=4, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests.** It only wins in the table of costs.
#
# **It loses all four**: copying by more than 30 points, and recall by more than 40. A causal stack gains little from global tokens: they come first, so they have no information to pass on.
# They are useful in encoders, where a class token or a question attends to the whole text.

# %% tags=["verdict"]
assert max(gain.values()) < -0.1
assert gain["copying"] < -0.3
assert gain["recall"] < -0.4

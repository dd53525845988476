# %% [markdown] tags=["intro"]
# # Sigmoid attention
#
# **What changes: the softmax.** Each weight is a sigmoid of its own score, so keys do not compete:
#
# $$z_i = \sum_{j \le i} \sigma(s_{ij} - \log n_i) v_j$$
#
# $n_i$ counts the keys that query $i$ may attend to. Without the logarithm, the weights of a long text would sum to much more than 1. Ramapuram et al. 2024.
# In the library: [`sigmoid.py`](src/qkv/attention/variants/sigmoid.py).

# %% tags=["scratch"]
from qkv.attention.variants.sigmoid import SigmoidAttention


def by_sigmoids(queries, keys, values):
    n = torch.arange(1, 18).double()[:, None]
    weights = (queries @ keys.mT / 8**0.5 - n.log()).sigmoid()
    return weights.tril() @ values


module = SigmoidAttention(24, 3, causal=True).double()
assert_equal(by_sigmoids(queries, keys, values), module.attend(queries, keys, values, None))

# %% [markdown] tags=["limit"]
# No setting equals a softmax over several keys. Its limits are as follows: if all scores are 0, the output is the mean that a softmax computes, times $n/(n + 1)$. The first query, which has
# one key, has the same weight as in a softmax with a sink of 0.

# %% tags=["limit"]
from qkv.attention.variants.sink import sink_softmax

n = torch.arange(1, 18).double()[:, None]
mean = attention(0 * queries, keys, values, causal=True)
assert_equal(by_sigmoids(0 * queries, keys, values), n / (n + 1) * mean)
first = (queries @ keys.mT / 8**0.5)[..., :1, :1]
with_sink = sink_softmax(first, torch.zeros(3).double()) @ values[..., :1, :]
assert_equal(by_sigmoids(queries, keys, values)[..., :1, :], with_sink)

# %% tags=["make"]
NAME = "sigmoid"


def make(d_model, n_heads, layer):
    return SigmoidAttention(d_model, n_heads, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests.** The paper's gain is speed: its kernel needs no maximum and no sum per row. The library has no such kernel, so it loses time and memory.
#
# **It loses recall at twice the length**, by 17 and 11 points with the two seeds (the two runs of multi-head attention differ by 15), and nothing else by more than 5 points with both seeds. The weights of
# a softmax always sum to 1; here, a model has to learn their sum.

# %% tags=["verdict"]
assert max(gain.values()) < 0.05
assert gain["recall, twice the length"] < -0.05

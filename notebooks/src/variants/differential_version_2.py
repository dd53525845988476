# %% [markdown] tags=["intro"]
# # Differential attention, version 2
#
# **What changes: the softmax, and the queries.** Each head has two queries for the same keys and values, and subtracts the result of the second:
#
# $$\mathrm{head}_i = A(q_{2i}) - \sigma(\lambda_i) A(q_{2i+1}) \qquad \lambda = x W_\lambda \qquad
# A(q) = \mathrm{softmax}\left(\frac{q K^\top}{\sqrt{d_k}}\right)V$$
#
# In [version 1](notebooks/variants/differential.ipynb), there are half as many heads, $\lambda$ is one number, and heads are normalized. Here the cache and the kernel are those of
# standard attention. Ye et al. 2026. In the library: [`differential_v2.py`](src/qkv/attention/variants/differential_v2.py).

# %% tags=["scratch"]
from qkv.attention.variants.differential_v2 import DifferentialV2Attention


def differential(module, x):
    projections = module.query(x), module.key(x), module.value(x)
    q, k, v = (y.unflatten(-1, (-1, 8)).transpose(1, 2) for y in projections)
    first, second = (
        (q[:, i::2] @ k.mT / 8**0.5)
        .masked_fill(torch.ones(17, 17).triu(1).bool(), -torch.inf)
        .softmax(-1)
        for i in (0, 1)
    )
    share = module.mixing(x).sigmoid().mT[..., None]  # (2, 3, 17, 1): of each head and token
    return module.output(((first - share * second) @ v).transpose(1, 2).flatten(2))


module = DifferentialV2Attention(24, 3, causal=True).double()
assert_equal(differential(module, x), module(x))

# %% tags=["limit"]
# As the share falls to 0, here by a feature that is always 1, it is standard attention by the first queries.
plain = MultiHeadAttention(24, 3, causal=True).double()
with torch.no_grad():
    for ours, theirs in zip(plain.query.parameters(), module.query.parameters(), strict=True):
        ours.copy_(theirs.unflatten(0, (6, 8))[0::2].flatten(0, 1))
    for name in ("key", "value", "output"):
        getattr(plain, name).load_state_dict(getattr(module, name).state_dict())
    module.mixing.weight.copy_(torch.tensor([0.0] * 23 + [-50.0]))
x[..., -1] = 1
assert_equal(differential(module, x), plain(x))

# %% tags=["make"]
NAME = "differential V2"


def make(d_model, n_heads, layer):
    return DifferentialV2Attention(d_model, n_heads, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins and loses nothing on these tests**: no difference was larger than 5 points, with either seed. There is little noise to cancel in so few tokens.
#
# **It loses time**, for two attention maps per head, and has about a quarter more parameters.

# %% tags=["verdict"]
assert max(map(abs, gain.values())) < 0.1

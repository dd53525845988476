# %% [markdown] tags=["intro"]
# # Differential attention
#
# **What changes: the softmax.** A head subtracts one attention map from another, so that what both have in common (noise) cancels:
#
# $$\left(\mathrm{softmax}\left(\frac{Q_1 K_1^\top}{\sqrt{d}}\right) - \lambda \quad \mathrm{softmax}\left(\frac{Q_2 K_2^\top}{\sqrt{d}}\right)\right)V$$
#
# There are half as many heads. Each head has two queries, two keys, and values of twice the width, and its output is normalized. $\lambda$ is learned.
# Ye et al. 2024. In the library: [`differential.py`](src/qkv/attention/variants/differential.py).

# %% tags=["scratch"]
from qkv.attention.variants.differential import DifferentialAttention, initial_lambda


def differential(queries, keys, values, mixing):
    (q1, q2), (k1, k2) = queries, keys
    hidden = torch.ones(17, 17).triu(1).bool()
    first, second = (
        (q @ k.mT / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        for q, k in ((q1, k1), (q2, k2))
    )
    return (first - mixing * second) @ values


module = DifferentialAttention(48, 3, lambda_init=0.3, causal=True).double()
pairs = torch.randn(3, 2, 6, 17, 8, dtype=torch.float64)  # heads 0, 2, 4 and 1, 3, 5 are pairs
(q1, k1, v1), (q2, k2, v2) = pairs[:, :, 0::2], pairs[:, :, 1::2]
heads = differential((q1, q2), (k1, k2), torch.cat((v1, v2), -1), module.mixing())
normed = F.rms_norm(heads, (16,), eps=module.norm_eps) * (1 - 0.3)
assert_equal(normed, module.attend(*pairs, None))

# %% tags=["limit"]
# Without the norm, and with lambda = 0, it is attention by the first queries and keys.
plain = differential((q1, q2), (k1, k2), v1, 0.0)
assert_equal(plain, attention(q1, k1, v1, causal=True))

# %% tags=["make"]
NAME = "differential"


def make(d_model, n_heads, layer):
    return DifferentialAttention(
        d_model, n_heads // 2, lambda_init=initial_lambda(layer), causal=True
    )


# %% [markdown] tags=["verdict"]
# **It wins none of these tests** by more than 10 points with both seeds: there is little noise to cancel in 16 tokens. The paper's gains are in long contexts.
#
# **It loses nothing by more than 20 points**, except time, for two attention maps per head.

# %% tags=["verdict"]
assert max(map(abs, gain.values())) < 0.2

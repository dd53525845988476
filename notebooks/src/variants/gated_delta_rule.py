# %% [markdown] tags=["intro"]
# # The gated delta rule
#
# **What changes: the softmax, and the cache.** Each head has a memory $S$. A token first decays it by $\alpha_t$, and then moves what it
# returns for $k_t$ toward $v_t$, by the fraction $\beta_t$:
#
# $$S_t = \alpha_t S_{t-1} \left(I - \beta_t k_t k_t^\top\right) + \beta_t v_t k_t^\top \qquad z_t = S_t q_t$$
#
# Linear attention can only add; here a value is *replaced*. Queries and keys have norm 1. Yang, Kautz and Hatamizadeh 2025. In the
# library: [`gated_delta.py`](src/qkv/attention/variants/gated_delta.py) and
# [`delta_rule.py`](src/qkv/attention/variants/delta_rule.py), which computes 64 tokens at once.

# %% tags=["scratch"]
from qkv.attention.variants.delta_rule import gated_delta_rule, unit
from qkv.attention.variants.gated_delta import GatedDeltaAttention


def recurrent(queries, keys, values, alpha, beta):
    memory, outputs = torch.zeros(2, 3, 8, 8).double(), []
    for t in range(17):
        a, b, k, v = alpha[:, :, t], beta[:, :, t], keys[:, :, t], values[:, :, t]
        memory = a[..., None, None] * memory
        returned = torch.einsum("bhvk,bhk->bhv", memory, k)
        memory = memory + (b[..., None] * (v - returned))[..., None] * k[..., None, :]
        outputs.append(torch.einsum("bhvk,bhk->bhv", memory, queries[:, :, t]))
    return torch.stack(outputs, 2)


q, k = unit(queries), unit(keys)
alpha, beta = torch.rand(2, 2, 3, 17, dtype=torch.float64)
assert_equal(
    recurrent(q, k, values, alpha, beta), gated_delta_rule(q, k, values, alpha.log(), beta)[0]
)

# %% [markdown] tags=["limit"]
# No setting equals a softmax. Its limits are as follows: without decay, and with orthogonal keys, there is nothing to correct, and the rule is linear attention without
# a denominator. With $\beta = 1$, it then returns each stored value exactly, as attention does when its scores are sharp.

# %% tags=["limit"]
orthogonal = torch.eye(8).double().expand(2, 3, 8, 8)
ones = torch.ones(2, 3, 8).double()
stored = values[:, :, :8]
recalled, _ = gated_delta_rule(orthogonal, orthogonal, stored, 0 * ones, ones)
assert_equal(recalled, (orthogonal @ orthogonal.mT).tril() @ stored)
assert_equal(recalled, attention(1e4 * orthogonal, orthogonal, stored, causal=True))

# %% tags=["make"]
NAME = "gated delta rule"


def make(d_model, n_heads, layer):
    return GatedDeltaAttention(d_model, n_heads, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins recall at twice the length**, by more than 10 points: a new value replaces the old one, however many were stored, whereas a softmax must distinguish the last value from all earlier ones by position.
#
# **It loses copying**, by more than 20 points: it has no positions, and no way to point at "the third symbol". The layer in the paper adds short convolutions, and hybrid models add attention layers.

# %% tags=["verdict"]
assert gain["recall, twice the length"] > 0.1
assert gain["copying"] < -0.2

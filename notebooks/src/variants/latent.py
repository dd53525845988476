# %% [markdown] tags=["intro"]
# # Latent attention
#
# **What changes: keys, values and the cache.** Keys and values are computed from one narrow vector $c_j$ per token. Only this vector is stored, with a
# small rotary key $k^R_j$ that all heads share:
#
# $$c_j = W^{DKV} x_j \qquad k_j = W^{UK} c_j \qquad v_j = W^{UV} c_j \qquad
# s_{ij} = \frac{q_i \cdot k_j + q^R_i \cdot k^R_j}{\sqrt{d_k + R}}$$
#
# The cache grows by $C + R$ numbers per token instead of $2d$. DeepSeek-AI 2024, "DeepSeek-V2", section 2.1. In the library:
# [`latent.py`](src/qkv/attention/variants/latent.py), which applies $W^{UK}$ to the query, so that keys are never expanded.

# %% tags=["scratch"]
from qkv.attention.variants.latent import LatentAttention
from qkv.blocks.positions import Rotary, rotate

module = LatentAttention(24, 3, d_latent=7, d_rotary=4, rotary=Rotary(4), causal=True).double()


def latent(module, x):
    q, q_rotary = module.query(x).unflatten(-1, (3, 12)).transpose(1, 2).split([8, 4], -1)
    c, k_rotary = module.down(x).split([7, 4], -1)  # this is all that is stored
    k, v = (up(c).unflatten(-1, (3, 8)).transpose(1, 2) for up in (module.key, module.value))
    place = torch.arange(17)
    q = torch.cat((q, rotate(q_rotary, place)), -1)
    k = torch.cat((k, rotate(k_rotary[:, None], place).expand(-1, 3, -1, -1)), -1)
    scores = (q @ k.mT / 12**0.5).masked_fill(torch.ones(17, 17).triu(1).bool(), -torch.inf)
    return module.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


assert_equal(latent(module, x), module(x))

# %% tags=["limit"]
# Without the rotary part it is attention with the products of the matrices.
with torch.no_grad():
    module.query.weight.unflatten(0, (3, 12))[:, 8:] = 0
    plain = MultiHeadAttention(24, 3, bias=False, causal=True).double()
    wide = (12 / 8) ** 0.5  # it divides by the root of 8 + 4, and not of 8
    plain.query.weight.copy_(module.query.weight.unflatten(0, (3, 12))[:, :8].flatten(0, 1) / wide)
    plain.key.weight.copy_(module.key.weight @ module.down.weight[:7])
    plain.value.weight.copy_(module.value.weight @ module.down.weight[:7])
    plain.output.weight.copy_(module.output.weight)
assert_equal(module(x), plain(x))

# %% tags=["make"]
NAME = "latent"


def make(d_model, n_heads, layer):
    d_head = d_model // n_heads
    return LatentAttention(
        d_model,
        n_heads,
        d_latent=d_model // 2,
        d_rotary=d_head // 2,
        rotary=Rotary(d_head // 2),
        causal=True,
    )


# %% [markdown] tags=["verdict"]
# **It wins none of these tests with both seeds.** It wins in the size of the cache: here 16 + 8 numbers per token instead of 64.
#
# **It loses copying at twice the length**, by 12 and 8 points with the two seeds: the keys and values of all heads must be computed from 16 numbers. At the lengths used in training, it is nearly level.

# %% tags=["verdict"]
assert gain["copying, twice the length"] < 0
assert abs(gain["recall"]) < 0.05

# %% [markdown] tags=["intro"]
# # Top-k with an indexer
#
# **What changes: the mask, and the cache.** A small indexer scores all keys, and each query attends to the $k$ keys that it scores highest:
#
# $$I_{ts} = \sum_{j=1}^{J} w_{tj} \mathrm{ReLU}\left(q^I_{tj} \cdot k^I_s\right) \qquad
# N(t) = \lbrace s \le t : I_{ts} \in \mathrm{Top}k(I_{t,:}) \rbrace$$
#
# Selecting keys has no gradient, so the indexer has its own loss: the divergence of $\mathrm{softmax}(I)$ from the attention weights. DeepSeek-AI 2025,
# "DeepSeek-V3.2-Exp". In the library: [`top_k.py`](src/qkv/attention/variants/top_k.py).

# %% tags=["scratch"]
from qkv.attention.variants.top_k import TopKAttention

module = TopKAttention(24, 3, k=5, n_index_heads=2, causal=True).double()


def heads(projected):
    return projected.unflatten(-1, (-1, 8)).transpose(1, 2)


def top_k(module, x, k):
    index_q = heads(module.index_query(x)) / 8**0.5  # (2, 2, 17, 8)
    index_k = module.index_key_norm(module.index_key(x))  # (2, 17, 8): one key per token
    of_heads = (index_q @ index_k[:, None].mT).relu()
    index = torch.einsum("btj,bjts->bts", module.index_weight(x) / 2**0.5, of_heads)
    later = torch.ones(17, 17).triu(1).bool()
    order = index.masked_fill(later, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    seen = torch.zeros(2, 17, 17).bool().scatter(-1, order[..., :k], True) & ~later
    q, k, v = heads(module.query(x)), heads(module.key(x)), heads(module.value(x))
    weights = (q @ k.mT / 8**0.5).masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return module.output((weights @ v).transpose(1, 2).flatten(2))


assert_equal(top_k(module, x, 5), module(x))

# %% tags=["limit"]
# With k = n, all keys are chosen: causal multi-head attention, whatever the indexer says.
plain = MultiHeadAttention(24, 3, causal=True).double()
plain.load_state_dict(module.state_dict(), strict=False)  # all but the indexer
assert_equal(top_k(module, x, 17), plain(x))

# %% tags=["make"]
NAME = "top-k"


def make(d_model, n_heads, layer):
    return TopKAttention(d_model, n_heads, k=4, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests**, and here it does not save time either: the library computes all scores and masks them, whereas a kernel gathers only $k$ keys.
#
# **It loses all four**, by more than 10 points each: `learn` uses only the loss of the task, which has no gradient for the indexer, so each query attends to 4 keys that an untrained indexer selects. DeepSeek-V3.2
# first trains the indexer on all keys, with a model that can already attend, and then selects 2,048 keys. Without `alignment_loss`, top-k is a random mask.

# %% tags=["verdict"]
assert max(gain.values()) < -0.1

# %% [markdown] tags=["intro"]
# # Linear attention
#
# **What changes: the softmax.** The weight of a key is a product of features, with $\phi(x) = \mathrm{elu}(x) + 1$:
#
# $$z_i = \frac{\phi(q_i)^\top \sum_{j \le i} \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_{j \le i} \phi(k_j)}$$
#
# The sums do not depend on the query. They are carried from token to token, so the layer is a recurrent network whose state has $d^2/h + d$
# numbers, for any length. Katharopoulos et al. 2020, equations 6, 7 and 16 to 20. In the library:
# [`linear.py`](src/qkv/attention/variants/linear.py).

# %% tags=["scratch"]
from qkv.attention.variants.feature_sums import divide, feature_map
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.linear_state import LinearState


def recurrent(queries, keys, values):
    sums, norm, outputs = torch.zeros(2, 3, 8, 8).double(), torch.zeros(2, 3, 8).double(), []
    for t in range(17):
        phi_q, phi_k = F.elu(queries[:, :, t]) + 1, F.elu(keys[:, :, t]) + 1
        sums = sums + phi_k[..., :, None] * values[:, :, t, None, :]
        norm = norm + phi_k
        outputs.append(torch.einsum("bhd,bhde->bhe", phi_q, sums) / (phi_q * norm).sum(-1, True))
    return torch.stack(outputs, 2)


phi_q, phi_k, with_ones = feature_map(queries), feature_map(keys), F.pad(values, (0, 1), value=1.0)
assert_equal(
    recurrent(queries, keys, values), divide(LinearState().update(phi_q, phi_k, with_ones))
)

# %% [markdown] tags=["limit"]
# No setting makes it a softmax: its weights are products of features, and never as sharp. It equals standard attention in one case only: if all
# keys are equal, both compute the mean of the values. The other check compares it with the same computation in a different order, with a matrix of weights.

# %% tags=["limit"]
same = keys[:, :, :1].expand_as(keys)
means = values.cumsum(2) / torch.arange(1, 18)[:, None]
assert_equal(recurrent(queries, same, values), means)
assert_equal(attention(queries, same, values, causal=True), means)
weights = (phi_q @ phi_k.mT).tril()
assert_equal(recurrent(queries, keys, values), weights / weights.sum(-1, True) @ values)

# %% tags=["make"]
NAME = "linear"


def make(d_model, n_heads, layer):
    return LinearAttention(d_model, n_heads, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins none of these tests beyond the spread of the seeds.** It wins in cost: its time is linear in the length, and its state has constant size.
#
# **It loses copying**, by more than 10 points: picking one symbol out of eight needs sharp weights, and products of features are flat.

# %% tags=["verdict"]
assert gain["copying"] < -0.1
assert abs(gain["recall"]) < 0.05

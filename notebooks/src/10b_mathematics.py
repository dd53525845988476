# %% [markdown]
# # Door B: the mathematics and the variations of attention
#
# From [the tutorial's section 10](notebooks/10_two_doors.ipynb). *60 minutes to read, two minutes to run.*
#
# Each proof is followed by a numeric check in float64, using the library's functions. Then come the costs, a mechanism that you
# design yourself, and a reading list by question. The variants of attention have [a page each](notebooks/variants/sliding_window.ipynb).

# %%
import itertools
import math

import torch
import torch.nn.functional as F

from qkv.attention.core import attention, attention_weights, explicit_attention
from qkv.tutorial.show import draw_curves, figure, show_table

torch.manual_seed(0)
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def assert_equal(one, other, bound=1e-12):
    difference = (one - other).abs().max().item()
    print(f"largest difference {difference:.0e}")
    assert difference < bound


# %% [markdown]
# ## What attention is
#
# ### A kernel regression
#
# Nadaraya and Watson (1964) estimate $f(x)$ from pairs $(x_j, y_j)$ by a kernel-weighted mean:
#
# $$\hat f(x) = \frac{\sum_j \kappa(x, x_j) y_j}{\sum_j \kappa(x, x_j)}$$
#
# **Claim.** With a Gaussian kernel and keys of equal norm, this is softmax attention. **Proof.** $-\lVert q - k_j \rVert^2 / 2\sigma^2 = (q \cdot k_j - \lVert q \rVert^2/2 - \lVert k_j \rVert^2/2) / \sigma^2$. The terms that do not depend on $j$, and those that are equal for all $j$, cancel in the fraction. What remains is $\exp(q \cdot k_j/\sigma^2)$; set $\sigma^2 = \sqrt{d_k}$. ∎

# %%
q, v = torch.randn(1, 1, 5, 8), torch.randn(1, 1, 7, 8)
k = F.normalize(torch.randn(1, 1, 7, 8), dim=-1)
variance = math.sqrt(8)
kernel = (-torch.cdist(q, k).square() / (2 * variance)).exp()
assert_equal(kernel @ v / kernel.sum(-1, keepdim=True), attention(q, k, v))

# %% [markdown]
# The width of the kernel is the temperature: a narrow kernel follows the noise, and a wide one returns the mean. What a Transformer adds is
# that it learns where keys and queries lie.

# %%
x_j = torch.linspace(0, 6, 40)
y_j = x_j.sin() + 0.3 * torch.randn(40)
grid = torch.linspace(0, 6, 200)
fits = {"sine": (grid, grid.sin())}
for sigma in (0.05, 0.4, 3.0):
    scores = -(grid[:, None] - x_j).square() / (2 * sigma**2)
    fits[f"width {sigma}"] = grid, scores.softmax(-1) @ y_j
with figure("10b_regression", size=(7, 3)) as axes:
    draw_curves(
        axes[0, 0], fits, x="query", y="mean of values", title="Attention over 40 noisy points"
    )

# %% [markdown]
# ### A soft dictionary
#
# A dictionary returns the value whose key equals the query. **Claim.** Let $k_m$ have the highest score, with a gap $\Delta > 0$ to all others. Then $1 - a_m \le (n - 1) e^{-\Delta/T}$ at
# temperature $T$. **Proof.** $1/a_m = 1 + \sum_{j \ne m} e^{(s_j - s_m)/T} \le 1 + (n-1)e^{-\Delta/T}$, and $1 - a_m \le 1/a_m - 1$. ∎ As $T \to 0$, attention becomes an exact look-up.

# %%
scores = torch.randn(100, 7)
top, second = scores.topk(2).values.unbind(-1)
for temperature in (1.0, 0.3, 0.1, 0.03):
    missing = 1 - (scores / temperature).softmax(-1).amax(-1)
    bound = 6 * (-(top - second) / temperature).exp()
    assert (missing <= bound + 1e-15).all()
    print(
        f"temperature {temperature}: median of 1 - a_m {missing.median():.1e}, of the bound {bound.median():.1e}"
    )

# %% [markdown]
# ### One step of an associative memory
#
# A modern Hopfield network (Ramsauer et al. 2021) stores patterns, the rows of $X$, and moves a state $\xi$ downhill in the energy
#
# $$E(\xi) = -\frac{1}{\beta} \log \sum_j e^{\beta x_j \cdot \xi} + \frac{1}{2} \lVert \xi \rVert^2$$
#
# **Claim.** The step $\xi' = X^\top \mathrm{softmax}(\beta X \xi)$, attention with $K = V = X$ and $\beta = 1/\sqrt{d_k}$, never raises $E$. **Proof.** The first term $-g$ is
# concave, so it lies below its tangent at $\xi$, whose slope is $-\nabla g = -\xi'$: $E(z) \le E(\xi) - \xi' \cdot (z - \xi) + (\lVert z \rVert^2 - \lVert \xi \rVert^2)/2$. The right side is
# smallest at $z = \xi'$, and equals $E(\xi)$ at $z = \xi$. ∎ Moreover, $\nabla E(\xi) = \xi - \xi'$: the fixed points of attention are the points where the gradient of the energy is 0.

# %%
X, beta = torch.randn(9, 16), 1 / math.sqrt(16)


def energy(state):
    return -(beta * X @ state).logsumexp(0) / beta + state.square().sum() / 2


state = torch.randn(16, requires_grad=True)
(slope,) = torch.autograd.grad(energy(state), state)
as_heads = [one[None, None] for one in (state[None], X, X)]  # (B, H, length, D)
step = attention(*as_heads)[0, 0, 0]
assert_equal(slope, state - step)

# %%
state, energies = X[0] + 0.5 * torch.randn(16), []
for _ in range(6):
    energies.append(energy(state).item())
    state = X.T @ (beta * X @ state).softmax(0)
print("energy:", " ".join(f"{one:.4f}" for one in energies))
assert all(after <= before + 1e-12 for before, after in itertools.pairwise(energies))
beta = 4.0  # sharp: one step repairs a damaged pattern
damaged = X[0] + 0.5 * torch.randn(16)
repaired = X.T @ (beta * X @ damaged).softmax(0)
print(
    f"distance to the stored pattern: {(damaged - X[0]).norm():.2f}, then {(repaired - X[0]).norm():.1e}"
)
assert (repaired - X[0]).norm() < 0.01

# %% [markdown]
# ## Proofs
#
# ### Why the scores are divided by the root of $d_k$
#
# **Claim.** If the coordinates of $q$ and $k$ are independent, with mean 0 and variance 1, then $q \cdot k$ has mean 0 and variance $d_k$. **Proof.** $E[q_i k_i] = 0$ and
# $E[q_i^2 k_i^2] = 1$; different coordinates are independent, so their variances add up. ∎ The check below uses all $2^{2 d_k}$ pairs of vectors of $\pm 1$ instead of a random sample, so
# it is exact.

# %%
for d_k in (2, 3, 4, 5):
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * d_k)
    products = signs @ signs.T
    print(f"d_k = {d_k}: mean {products.mean():.0f}, variance {products.square().mean():.12f}")
    assert products.mean() == 0
    assert abs(products.square().mean() - d_k) < 1e-12

# %% [markdown]
# ### The Jacobian of the softmax
#
# **Claim.** $\partial a_i / \partial s_j = a_i (\delta_{ij} - a_j)$, that is, $J = \mathrm{diag}(a) - a a^\top$; its rows sum to 0, and its eigenvalues lie in $[0, 1/2]$. **Proof.** Differentiate $\log a_i = s_i - \log \sum_m e^{s_m}$.
# For any $u$, $u^\top J u = \sum_i a_i u_i^2 - (\sum_i a_i u_i)^2$ is the variance of $u$ under $a$. It is at least 0 and at most $(\max u - \min u)^2/4 \le \lVert u \rVert^2 / 2$ (Popoviciu). ∎ Where one weight is 1, the variance is 0,
# and so is the gradient of the scores.

# %%
s = torch.randn(6)
a = s.softmax(0)
J = torch.autograd.functional.jacobian(lambda one: one.softmax(0), s)
assert_equal(J, a.diag() - a[:, None] * a)
assert_equal(J.sum(0), torch.zeros(6))
spectra = torch.stack(
    [
        torch.linalg.eigvalsh(b.diag() - b[:, None] * b)
        for b in (5 * torch.randn(500, 6)).softmax(-1)
    ]
)
print(f"500 rows of weights: eigenvalues from {spectra.min():.1e} to {spectra.max():.3f}")
assert spectra.min() > -1e-12
assert spectra.max() <= 0.5

# %% [markdown]
# The gradient continues beyond the scores: with $s = K q/\sqrt{d_k}$, we get $\partial a / \partial q = J K / \sqrt{d_k}$. Section 2.2 of the tutorial measures both factors.

# %%
K, q = torch.randn(6, 4), torch.randn(4)
exact = torch.autograd.functional.jacobian(lambda one: (K @ one / 2).softmax(0), q)
a = (K @ q / 2).softmax(0)
assert_equal(exact, (a.diag() - a[:, None] * a) @ K / 2)

# %% [markdown]
# ### Order is invisible: permutation equivariance
#
# **Claim.** For a permutation matrix $P$, $\mathrm{Attn}(PX) = P \mathrm{Attn}(X)$. **Proof.** The scores become $P S P^\top$. The softmax is computed row by row, so the weights are permuted in the same way: $P A P^\top$.
# Then $P A P^\top P V = P A V$. ∎ So positions must be added. A causal mask also breaks this symmetry.

# %%
X, order = torch.randn(1, 1, 9, 8), torch.randperm(9)
mixed = X[:, :, order]
assert_equal(attention(mixed, mixed, mixed), attention(X, X, X)[:, :, order])
causal = attention(mixed, mixed, mixed, causal=True) - attention(X, X, X, causal=True)[:, :, order]
assert causal.abs().max() > 0.1

# %% [markdown]
# ### The future is invisible: causality
#
# **Claim.** With a causal mask $\partial z_i / \partial x_j = 0$ for $j > i$, in a stack of any depth. **Proof.** By induction: in the first layer, $z_i$ is a function of $x_1 \ldots x_i$, because $a_{ij} = 0$ for
# $j > i$. Position-wise maps preserve this property, and in the next layer, a function of $z_1 \ldots z_i$ is a function of $x_1 \ldots x_i$. ∎

# %%
from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack

stack = Stack(BlockConfig(d_model=8, n_heads=2, d_ff=16, causal=True), 3).eval()
X = torch.randn(1, 6, 8)
J = torch.autograd.functional.jacobian(lambda x: stack(x)[0], X)[:, :, 0]  # (6, 8, 6, 8)
influence = J.square().sum((1, 3)).sqrt()  # of token j (columns) on output i (rows)
assert (influence.triu(1) == 0).all()
assert (influence.tril() > 0).sum() == 21

# %% [markdown]
# ### Sinusoids: a shift is a rotation
#
# **Claim.** For each distance $t$ there is one matrix $R_t$ with $PE(p + t) = R_t PE(p)$ for all $p$. **Proof.** By the angle addition formulas, the pair $(\sin \omega p, \cos \omega p)$ of each frequency $\omega$ is rotated by the
# angle $\omega t$. ∎ So a linear layer *can* compute "three to the left"; and $PE(p) \cdot PE(p + t) = \sum_i \cos \omega_i t$ depends on $t$ alone.

# %%
from qkv.blocks.positions import sinusoids

t, d = 3, 8
angles = t * 10_000 ** (-2 * torch.arange(d // 2) / d)
R = torch.block_diag(*[torch.tensor([[w.cos(), w.sin()], [-w.sin(), w.cos()]]) for w in angles])
before = sinusoids(torch.arange(50), d, dtype=torch.float64)
after = sinusoids(torch.arange(50) + t, d, dtype=torch.float64)
assert_equal(after, before @ R.T)
assert_equal((before * after).sum(-1), angles.cos().sum().expand(50))

# %% [markdown]
# ### Rotary positions, derived
#
# **Goal.** We want linear maps $R_m$, applied to queries and keys, such that the score depends on the distance only: $(R_m q) \cdot (R_n k) = g(q, k, n - m)$. **Derivation.** Since this holds for all $q, k$, the matrix $R_m^\top R_n$ is
# a function of $n - m$. With $m = n$ and $R_0 = I$, we get $R_m^\top R_m = I$: the maps are orthogonal. With $m = 0$, we see that this function is $R_{n - m}$ itself. So $R_m^\top R_n = R_{n-m}$, hence $R_{m + n} = R_m R_n$. If $R_m$ is
# continuous in $m$, then $R_m = e^{mA}$ with $A^\top = -A$. In a suitable basis, an antisymmetric $A$ consists of blocks $\omega_i J$, where $J$ maps $(x, y)$ to $(-y, x)$, and $R_m$ consists of rotations by $m \omega_i$. ∎ That is all
# of RoPE (Su et al. 2021); only the frequencies are chosen.

# %%
from qkv.blocks.positions import rotate

frequencies = 10_000 ** (-torch.arange(0, 8, 2) / 8)
A = torch.block_diag(*[w * torch.tensor([[0.0, -1.0], [1.0, 0.0]]) for w in frequencies])
q, k = torch.randn(2, 1, 1, 1, 8)
turned = rotate(q, torch.tensor([5]), layout="interleaved")
assert_equal(turned[0, 0, 0], torch.linalg.matrix_exp(5 * A) @ q[0, 0, 0])
at = [(rotate(q, torch.tensor([m])) * rotate(k, torch.tensor([m + 4]))).sum() for m in (0, 7, 1000)]
assert_equal(torch.stack(at), at[0])

# %% [markdown]
# ### Without residuals, all tokens become equal: rank collapse
#
# **Claim** (after Dong et al. 2021). Let $\delta(A) = 1 - \sum_j \min_i a_{ij}$. Then, for each coordinate, the range over the tokens (largest minus smallest) satisfies $\mathrm{range}(A x) \le \delta(A) \mathrm{range}(x)$. **Proof.** Subtract $\min_i a_{ij}$ from each column of $A$. This subtracts the same number from all entries of $Ax$ and leaves rows of non-negative numbers that sum to $\delta$, so the entries of the remaining product lie between $\delta \min x$ and $\delta \max x$. ∎ Softmax weights are positive, so $\delta < 1$, and layers of attention alone approach a matrix of rank one. Residuals pass $x$ on.

# %%
x, y = torch.randn(2, 1, 1, 12, 8)
y = x.clone()
spread = {"attention alone": [], "with residuals": []}
for _ in range(12):
    A = attention_weights(x, x)[0, 0]
    delta = 1 - A.amin(0).sum()
    before = x[0, 0].amax(0) - x[0, 0].amin(0)
    x, y = attention(x, x, x), F.layer_norm(y + attention(y, y, y), (8,))
    assert (x[0, 0].amax(0) - x[0, 0].amin(0) <= delta * before + 1e-12).all()
    for name, of in zip(spread, (x, y), strict=True):
        spread[name].append((of - of.mean(-2, keepdim=True)).norm().item() / of.norm().item())
columns = {"layer": [1, 4, 8, 12]} | {n: [of[i] for i in (0, 3, 7, 11)] for n, of in spread.items()}
show_table("How much of the tokens differs from their mean", columns, digits=4)
assert spread["attention alone"][-1] < 1e-3 < spread["with residuals"][-1]

# %% [markdown]
# Here, residuals slow the collapse but do not prevent it: without projections and a feed-forward network, a layer of attention only computes averages, whatever is added to them.
#
# ### The softmax in one pass
#
# **Claim.** With running values $m$ (largest score), $\ell$ (sum) and $o$ (weighted sum of values), a block of keys with scores $s$ is added as follows:
#
# $$m' = \max(m, \max s) \qquad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'} \qquad o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j$$
#
# At the end, $o/\ell$ is the output of attention. **Proof.** Before a block, $\ell = \sum_j e^{s_j - m}$ over the keys so far; multiplying it by $e^{m - m'}$ turns it into $\sum_j e^{s_j - m'}$. The same is true of $o$. ∎ (Milakov and
# Gimelshein 2018.) So no $n \times n$ matrix is ever stored: this is how the fused kernel works (Dao et al. 2022).

# %%
q, k, v = torch.randn(3, 1, 1, 20, 8)
m, total, o = torch.full((20, 1), -torch.inf), torch.zeros(20, 1), torch.zeros(20, 8)
for keys, values in zip(k[0, 0].split(6), v[0, 0].split(6), strict=True):
    s = q[0, 0] @ keys.T / math.sqrt(8)
    new = torch.maximum(m, s.amax(-1, keepdim=True))
    weights, shrink = (s - new).exp(), (m - new).exp()
    total, o, m = shrink * total + weights.sum(-1, keepdim=True), shrink * o + weights @ values, new
assert_equal((o / total)[None, None], explicit_attention(q, k, v))

# %% [markdown]
# ### Linear attention is a recurrent network
#
# **Claim.** If the weight is a product of features, $\phi(q_i) \cdot \phi(k_j)$, then causal attention is a recurrence with a state of fixed size. **Proof.** $\sum_{j \le i} (\phi(q_i) \cdot \phi(k_j)) v_j = \phi(q_i)^\top S_i$ with
# $S_i = S_{i-1} + \phi(k_i) v_i^\top$, because sums are associative. ∎ (Katharopoulos et al. 2020.) The exponential of a dot product is also such a product, but of infinitely many features; that is why the cache of softmax attention
# grows.

# %%
from qkv.attention.variants.linear import LinearAttention

layer = LinearAttention(8, 2, causal=True)
X, state = torch.randn(1, 30, 8), layer.new_cache()
steps = torch.cat([layer(X[:, i : i + 1], cache=state) for i in range(30)], 1)
assert_equal(steps, layer(X))

# %% [markdown]
# ## Costs
#
# The costs of one layer for $n$ tokens of width $d$ (Vaswani et al. 2017, table 1, with memory added): operations, numbers stored for the backward pass in addition to the tokens themselves, sequential steps, and the longest path between
# two tokens.
#
# | layer | operations | memory | steps | path |
# | --- | --- | --- | --- | --- |
# | self-attention, weights stored | $O(n^2 d)$ | $O(n^2)$ | $O(1)$ | $O(1)$ |
# | self-attention, online softmax | $O(n^2 d)$ | $O(n d)$ | $O(1)$ | $O(1)$ |
# | window of $w$ | $O(n w d)$ | $O(n d)$ | $O(1)$ | $O(n/w)$ |
# | linear | $O(n d^2)$ | $O(n d)$ | $O(1)$ in training | $O(1)$, through $d^2$ numbers |
# | recurrent | $O(n d^2)$ | $O(n d)$ | $O(n)$ | $O(n)$ |
# | convolution, width $k$ | $O(k n d^2)$ | $O(n d)$ | $O(1)$ | $O(n/k)$ |
#
# PyTorch's operation counter confirms the first column: doubling $n$ multiplies the operations of the matrix products by four.

# %%
from qkv.tutorial.measure import flops

q1, q2 = (torch.randn(1, 1, n, 64) for n in (256, 512))
for name, one in {"explicit": explicit_attention, "fused": attention}.items():
    small, large = flops(lambda: one(q1, q1, q1)), flops(lambda: one(q2, q2, q2))  # noqa: B023 - called at once
    print(f"{name}: {small:,} and {large:,} operations")
    assert small == 2 * 2 * 256 * 256 * 64  # two products, 2 operations per multiply-add
    assert large == 4 * small

# %% [markdown]
# ### Why a decoder waits for memory
#
# The *arithmetic intensity* is the number of operations per byte that is read. Multiplying a weight matrix of $d^2$ numbers of 4 bytes by $b$ vectors takes $2 b d^2$ operations for $4 d^2$ bytes: $b/2$ operations per byte. A processor
# can do tens of operations in the time it takes to read one byte. In training and when processing a prompt, $b$ is in the thousands. In decoding, $b = 1$ per sequence, so decoding runs at the speed of memory: smaller weights (16, 8 or 4
# bits) help, and so does decoding more sequences at once. The cache of keys and values does not benefit from a batch, because each sequence has its own cache: $4 n d$ operations for $8 n d$ bytes, always $1/2$ per byte. Shared key heads
# or latents make the cache smaller.
#
# How much a batch gains also depends on the load of the machine and on its kernels for few vectors ([inference](docs/inference.md) describes the
# library's own kernel). The cell shows the best of nine calls and asserts nothing.

# %%
from qkv.tutorial.measure import interleave, medians

W = torch.randn(2048, 2048, dtype=torch.float32)  # 16 MB, more than most caches hold
inputs = {b: torch.randn(2048, b, dtype=torch.float32) for b in (1, 4, 16, 64)}
times = interleave({str(b): (lambda x=x: W @ x) for b, x in inputs.items()}, rounds=9)
rows = [
    {
        "vectors": b,
        "operations per byte": int(b) / 2,
        "microseconds per vector": 1e6 * min(of) / int(b),
    }
    for b, of in times.items()
]
show_table("A matrix of 2,048 x 2,048 times several vectors", rows, digits=1)

# %% [markdown]
# ## Design your own
#
# `ExplicitAttention` has a method for each step: `scores`, `normalize`, `mix`. Override one of them. In this example, the weights are the squares of positive scores, divided by their sum, without an exponential. (*Squared ReLU* is known
# from feed-forward networks; this is an example, not a recommendation.)

# %%
from qkv.attention.variants.explicit import ExplicitAttention


class MyAttention(ExplicitAttention):
    def normalize(self, scores, mask):
        weights = F.relu(scores + 1).square()  # + 1: a key of score 0 counts
        if mask is not None:
            weights = weights.masked_fill(~mask, 0.0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)


# %% [markdown]
# Test your mechanism against the laws that every mechanism of the library obeys:

# %%
mine = MyAttention(24, 3, causal=True)
X, cache = torch.randn(2, 11, 24), mine.new_cache()
changed = torch.cat((X[:, :7], torch.randn(2, 4, 24)), 1)
print("causal: later tokens have no effect")
assert_equal(mine(X)[:, :7], mine(changed)[:, :7])
print("cached = uncached")
assert_equal(torch.cat([mine(X[:, i : i + 1], cache=cache) for i in range(11)], 1), mine(X))
print("masked tokens have no effect")
mask = torch.ones(2, 1, 1, 11, dtype=torch.bool)
mask[..., 7:] = False
assert_equal(mine(X, mask=mask)[:, :7], mine(changed, mask=mask)[:, :7])
print("a row of the batch is alone")
assert_equal(mine(X)[:1], mine(X[:1]))
print("gradients against finite differences")
small = MyAttention(4, 2, causal=True)
assert torch.autograd.gradcheck(small, torch.randn(1, 3, 4, requires_grad=True))

# %% [markdown]
# The tables show what your mechanism costs and what it learns on the tasks of [the variants' pages](notebooks/variants/sliding_window.ipynb).

# %%
from qkv.attention.multi_head import MultiHeadAttention
from qkv.tutorial.live_tasks import D_MODEL, N_HEADS, learn

torch.set_default_dtype(torch.float32)
kinds = {"multi-head": MultiHeadAttention, "mine": MyAttention}
rows = [
    {"mechanism": name}
    | {
        task: f"{share:.0%}"
        for task, share in learn(
            lambda layer, kind=kind: kind(D_MODEL, N_HEADS, causal=True)
        ).items()
    }
    for name, kind in kinds.items()
]
show_table("Right answers after 400 steps", rows)
X, rivals = (
    torch.randn(1, 512, 64),
    {n: kind(64, 4, causal=True).eval() for n, kind in kinds.items()},
)
seconds = medians(interleave({n: (lambda m=m: m(X)) for n, m in rivals.items()}, rounds=5))
show_table("Milliseconds for 512 tokens", [{n: 1000 * s for n, s in seconds.items()}], digits=1)

# %% [markdown]
# ## What to read, by question
#
# Each work is linked to a line of code. The cell finds this line and fails if it no longer exists; [the bibliography](docs/bibliography.toml) has titles and links.

# %%
import importlib
import inspect
import tomllib
from pathlib import Path

READING = [
    ("What is attention for?", "Bahdanau, Cho and Bengio 2015", "attention.scores:additive_scores"),
    ("Can it be simpler?", "Luong, Pham and Manning 2015", "attention.scores:general_scores"),
    ("Is one vector enough for a sentence?", "Sutskever et al. 2014", "models.rnn:RNNEncoder"),
    ("Is attention all you need?", "Vaswani et al. 2017", "models.transformer:Transformer"),
    ("What if it reads both sides?", "Devlin et al. 2019", "models.bert:Bert"),
    ("What if it only predicts the next token?", "Radford et al. 2019", "models.gpt:GPT"),
    ("What if everything is text to text?", "Raffel et al. 2020", "models.t5:T5"),
    ("What if words are patches?", "Dosovitskiy et al. 2021", "models.vit:PatchEmbedding"),
    ("Where do the norms go?", "Xiong et al. 2020", "blocks.block:Residual"),
    ("Which norm?", "Zhang and Sennrich 2019", "blocks.norms:rms_norm"),
    ("Which feed-forward network?", "Shazeer 2020", "blocks.feed_forward:FeedForward"),
    ("Why are residuals needed?", "Dong et al. 2021", "blocks.block:Residual.forward"),
    (
        "How does it know distances?",
        "Shaw, Uszkoreit and Vaswani 2018",
        "attention.variants.relative:RelativeAttention.scores",
    ),
    ("Can distances be rotations?", "Su et al. 2021", "blocks.positions:rotate"),
    ("Can distances be a slope?", "Press, Smith and Lewis 2022", "blocks.positions:alibi_slopes"),
    (
        "What of longer texts than in training?",
        "Peng et al. 2023",
        "blocks.rotary_scaling:YaRNScaling",
    ),
    ("How is it computed without its matrix?", "Dao et al. 2022", "attention.core:attention"),
    (
        "Must every token see every token?",
        "Beltagy, Peters and Cohan 2020",
        "attention.variants.sliding_window:SlidingWindowAttention",
    ),
    (
        "Why do models look at the first token?",
        "Xiao et al. 2023",
        "attention.variants.streaming:StreamingAttention",
    ),
    (
        "Can it be linear in the length?",
        "Katharopoulos et al. 2020",
        "attention.variants.linear:LinearAttention",
    ),
    (
        "Can a memory be corrected?",
        "Yang, Kautz and Hatamizadeh 2025",
        "attention.variants.delta_rule:gated_delta_rule",
    ),
    (
        "Can noise be subtracted?",
        "Ye et al. 2024",
        "attention.variants.differential:DifferentialAttention",
    ),
    (
        "Need weights compete?",
        "Ramapuram et al. 2024",
        "attention.variants.sigmoid:SigmoidAttention",
    ),
    ("Must each head have its keys?", "Shazeer 2019", "attention.multi_head:MultiHeadAttention"),
    ("Or groups of them?", "Ainslie et al. 2023", "attention.multi_head:MultiHeadAttention"),
    ("Or one narrow vector?", "DeepSeek-AI 2024", "attention.variants.latent:LatentAttention"),
    (
        "Can several tokens be decoded at once?",
        "Leviathan et al. 2023",
        "generation.speculative:speculative",
    ),
    ("How does one sample?", "Holtzman et al. 2020", "generation.sampling:Sampling"),
    ("How does one adapt a large model?", "Hu et al. 2021", "models.lora_layers:LoRALinear"),
    ("Do weights explain?", "Abnar and Zuidema 2020", "attention.rollout:attention_rollout"),
    (
        "Are all heads needed?",
        "Michel, Levy and Neubig 2019",
        "explorer.changes:each_head_disabled",
    ),
    ("Which circuit copies?", "Olsson et al. 2022", "tutorial.live_tasks:copying"),
]
WORKS = tomllib.loads(Path("docs/bibliography.toml").read_text(encoding="utf-8"))["works"]
rows = []
for question, work, place in READING:
    module, _, name = place.partition(":")
    shown = importlib.import_module(f"qkv.{module}")
    for part in name.split("."):
        shown = getattr(shown, part)
    line = inspect.getsourcelines(inspect.unwrap(shown))[1]
    path = f"src/qkv/{module.replace('.', '/')}.py"
    rows.append(
        {
            "question": question,
            "work": f"{work}: {WORKS[work][1]}",
            "code": f"`{path}`, line {line}",
        }
    )
show_table(f"{len(rows)} works", rows)
assert len(rows) >= 30

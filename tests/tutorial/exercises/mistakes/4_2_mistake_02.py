import torch

def rotary_attention(queries, keys, values):
    n_q, n_k, d = queries.size(-2), keys.size(-2), queries.size(-1)
    inv = 10000.0 ** (-torch.arange(0, d, 2).double() / d)

    def turn(x, pos):
        ang = pos.double()[:, None] * inv
        even, odd = x[..., 0::2], x[..., 1::2]
        y = torch.empty_like(x)
        y[..., 0::2] = even * ang.cos() - odd * ang.sin()
        y[..., 1::2] = even * ang.sin() + odd * ang.cos()
        return y

    q = turn(queries, torch.arange(n_k - n_q, n_k))
    k = turn(keys, torch.arange(n_k))
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / d ** 0.5
    return torch.einsum("bhqk,bhkv->bhqv", scores.softmax(-1), values)

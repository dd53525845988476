import torch

def rotary_attention(queries, keys, values):
    Q, K, D = queries.shape[2], keys.shape[2], keys.shape[3]
    f = 10000.0 ** (-2 * torch.arange(D // 2) / D)
    def rot(x, t):
        a, b = x.chunk(2, -1)
        return torch.cat([a * t.cos() - b * t.sin(), a * t.sin() + b * t.cos()], -1)
    pos = torch.arange(K)[:, None] * f
    q = rot(queries, pos[K - Q:])
    k = rot(keys, 1.1 * pos)
    return torch.softmax(q @ k.mT / D ** 0.5, -1) @ values

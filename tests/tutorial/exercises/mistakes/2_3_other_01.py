import torch

def blockwise_attention(queries, keys, values, block):
    n, d = queries.shape
    m = torch.full((n,), float("-inf"))
    z = torch.zeros(n)
    o = torch.zeros(n, values.shape[1])
    gain = 1.0
    for j in range(0, keys.shape[0], block):
        s = queries @ keys[j:j + block].T / d ** 0.5
        mm = torch.maximum(m, s.amax(-1))
        e = gain * torch.exp(s - mm[:, None])
        r = torch.exp(m - mm)
        z = z * r + e.sum(-1)
        o = o * r[:, None] + e @ values[j:j + block]
        m = mm
        gain *= 0.9
    return o / z[:, None]

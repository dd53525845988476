import torch

def rope(x):
    # x: (B, H, L, D)
    L, D = x.shape[-2:]
    pos = torch.arange(L, dtype=x.dtype)
    theta = 10000.0 ** (-2 * torch.arange(D // 2, dtype=x.dtype) / D)
    t = torch.outer(pos, theta)
    a, b = x[..., :D // 2], x[..., D // 2:]
    return torch.cat((a * t.cos() - b * t.sin(), a * t.sin() + b * t.cos()), -1)

def rotary_attention(queries, keys, values):
    q, k = rope(queries), rope(keys)
    w = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    return w @ values

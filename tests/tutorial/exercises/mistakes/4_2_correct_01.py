import torch

def rotary_attention(queries, keys, values):
    Q, K, D = queries.shape[2], keys.shape[2], keys.shape[3]
    h = D // 2
    q = torch.complex(queries[..., :h].contiguous(), queries[..., h:].contiguous())
    k = torch.complex(keys[..., :h].contiguous(), keys[..., h:].contiguous())
    theta = 10000.0 ** (-torch.arange(h, dtype=torch.float64) * 2 / D)
    distance = torch.arange(K - Q, K)[:, None] - torch.arange(K)[None, :]
    angle = distance[..., None] * theta                       # (Q, K, h)
    turn = torch.polar(torch.ones_like(angle), angle)
    s = torch.einsum("bhqi,bhki,qki->bhqk", q, k.conj(), turn).real / D ** 0.5
    return torch.softmax(s, -1) @ values

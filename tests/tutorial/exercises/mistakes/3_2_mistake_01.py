import torch

def grouped_attention(queries, keys, values):
    B, H, Q, D = queries.shape
    G, Dv = keys.shape[1], values.shape[-1]
    if H % G != 0:
        raise ValueError("G must divide H")
    r = H // G
    k = keys.repeat(1, r, 1, 1)
    v = values.repeat(1, r, 1, 1)
    att = torch.softmax(queries @ k.transpose(2, 3) / D ** 0.5, dim=-1)
    return att @ v, G * (D + Dv)

import torch

def grouped_attention(queries, keys, values):
    h, g = queries.shape[1], keys.shape[1]
    if h % g:
        raise ValueError("the number of key heads does not divide that of query heads")
    q = queries.unflatten(1, (g, h // g))
    s = torch.einsum("bgrqd,bgkd->bgrqk", q, keys).div(q.shape[-1] ** 0.5)
    w = torch.exp(s - s.logsumexp(-1, keepdim=True))
    out = torch.einsum("bgrqk,bgkv->bgrqv", w, values).flatten(1, 2)
    return out, keys[0, :, 0].numel() + values[0, :, 0].numel()

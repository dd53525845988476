import torch

def multi_head(x, W_Q, W_K, W_V, W_O, n_heads):
    B, L, D = x.shape
    hd = D // n_heads
    heads = []
    for h in range(n_heads):
        cols = slice(h * hd, (h + 1) * hd)
        q, k, v = (x @ W_Q)[..., cols], (x @ W_K)[..., cols], (x @ W_V)[..., cols]
        score = torch.einsum("bid,bjd->bij", q, k) * hd ** -0.5
        p = torch.softmax(score, dim=1)
        heads.append(torch.einsum("bij,bjd->bid", p, v))
    return torch.cat(heads, dim=-1) @ W_O

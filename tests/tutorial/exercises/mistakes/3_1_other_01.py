import torch

def multi_head(x, W_Q, W_K, W_V, W_O, n_heads):
    B, L, D = x.shape
    split = lambda t: t.view(B, L, n_heads, -1).transpose(1, 2)
    q, k, v = split(x @ W_Q), split(x @ W_K), split(x @ W_V)
    a = torch.softmax(q @ k.mT / (D // n_heads) ** 0.5, -1) @ v
    return a.transpose(1, 2).reshape(B, L, D) @ W_O.T

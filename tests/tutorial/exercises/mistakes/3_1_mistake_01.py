import torch
import torch.nn.functional as F

def multi_head(x, W_Q, W_K, W_V, W_O, n_heads):
    B, L, D = x.shape
    d = D // n_heads
    q = (x @ W_Q).view(B, n_heads, L, d)
    k = (x @ W_K).view(B, n_heads, L, d)
    v = (x @ W_V).view(B, n_heads, L, d)
    w = F.softmax(q @ k.transpose(-1, -2) / d ** 0.5, dim=-1)
    out = (w @ v).reshape(B, L, D)
    return out @ W_O

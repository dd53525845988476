import torch

def concat_scores(queries, keys, W, v):
    d_k = keys.shape[-1]
    W_k, W_q = W[:, :d_k], W[:, d_k:]
    q = queries @ W_q.T      # (B, Q, A)
    k = keys @ W_k.T         # (B, K, A)
    return torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)) @ v

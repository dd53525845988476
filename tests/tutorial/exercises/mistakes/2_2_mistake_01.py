import torch

def attention(queries, keys, values, mask, causal):
    Q, K = queries.shape[-2], keys.shape[-2]
    allowed = torch.ones(queries.shape[:-1] + (K,), dtype=torch.bool)
    if mask is not None:
        allowed = allowed & mask
    if causal:
        allowed = allowed & torch.ones(Q, K, dtype=torch.bool).tril(K - Q)
    scores = queries @ keys.transpose(-2, -1) / queries.shape[-1]
    scores = scores.masked_fill(~allowed, -1e30)
    weights = torch.softmax(scores, -1)
    weights = weights.masked_fill(~allowed, 0.0)
    return weights @ values

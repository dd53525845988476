import torch, math

def attention(queries, keys, values, mask, causal):
    S = queries @ keys.mT / math.sqrt(keys.shape[-1])
    n, m = S.shape[-2:]
    if mask is not None:
        S = torch.where(mask, S, -1e9)   # big negative number, no NaN
    if causal:
        future = torch.triu(torch.ones(n, m, dtype=torch.bool), diagonal=m - n + 1)
        S = S.masked_fill(future, -1e9)
    return S.softmax(-1) @ values

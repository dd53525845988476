import torch

def attention(queries, keys, values, mask, causal):
    q, k = queries.shape[2], keys.shape[2]
    s = torch.einsum("bhqd,bhkd->bhqk", queries, keys) * queries.shape[3] ** -0.5
    ok = torch.ones_like(s, dtype=torch.bool)
    if causal:
        ok &= torch.arange(k)[None, :] - torch.arange(q)[:, None] <= k - q
    if mask is not None:
        ok &= mask
    low = torch.full_like(s, -torch.inf)
    m = torch.where(ok, s, low).detach().amax(-1, keepdim=True)
    m = torch.where(torch.isinf(m), torch.zeros_like(m), m)
    e = torch.exp(torch.where(ok, s - m, low))
    z = e.sum(-1, keepdim=True)
    z = torch.where(z == 0, torch.ones_like(z), z)
    return torch.einsum("bhqk,bhkv->bhqv", e, values) / z

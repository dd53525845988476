import math
import torch

def attention(queries, keys, values, mask, causal):
    """Scaled dot-product attention."""
    d = queries.size(-1)
    scores = torch.einsum("bhqd,bhkd->bhqk", queries, keys) / math.sqrt(d)
    blocked = torch.zeros_like(scores, dtype=torch.bool)
    if mask is not None:
        blocked = blocked | ~mask
    if causal:
        i = torch.arange(scores.size(2)).unsqueeze(1)
        j = torch.arange(scores.size(3)).unsqueeze(0)
        blocked = blocked | (j > i)
    scores = scores.masked_fill(blocked, torch.finfo(scores.dtype).min)
    w = scores.softmax(dim=-1)
    w = torch.where(blocked, torch.zeros_like(w), w)
    return torch.einsum("bhqk,bhkv->bhqv", w, values)

import torch

def blockwise_attention(queries, keys, values, block):
    Q, D = queries.shape
    largest = torch.full((Q, 1), -torch.inf)
    total = torch.zeros(Q, 1)
    acc = torch.zeros(Q, values.shape[1])
    for start in range(0, keys.shape[0], block):
        k = keys[start:start + block]
        v = values[start:start + block]
        s = queries @ k.T / D ** 0.5
        new = torch.maximum(largest, s.max(dim=1, keepdim=True).values)
        e = torch.exp(s - new)
        total = total * torch.exp(largest - new) + e.sum(dim=1, keepdim=True)
        acc = acc + e @ v
        largest = new
    return acc / total

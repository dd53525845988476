import torch

def pool(states, mask):
    m = mask.unsqueeze(-1).to(states.dtype)
    return (states * m).sum(1) / m.sum(1)

def similarities(first, first_mask, second, second_mask):
    return torch.einsum("ad,bd->ab", pool(first, first_mask), pool(second, second_mask))

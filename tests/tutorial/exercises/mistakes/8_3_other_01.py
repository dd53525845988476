import math
import torch

def similarities(first, first_mask, second, second_mask):
    mean = lambda x, m: (x * m[..., None]).sum(1) / m.sum(1, keepdim=True)
    a, b = mean(first, first_mask), mean(second, second_mask)
    cos = (a @ b.T) / a.norm(dim=1)[:, None] / b.norm(dim=1)
    return 1 - torch.acos(cos.clamp(-1, 1)) / math.pi

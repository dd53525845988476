import torch
import torch.nn.functional as F

def similarities(first, first_mask, second, second_mask):
    a = F.normalize(first.mean(dim=1), dim=-1)
    b = F.normalize(second.mean(dim=1), dim=-1)
    return a @ b.T

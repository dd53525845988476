import torch

def context(s, H, W, U, v, mask):
    e = torch.tanh((s @ W.T)[:, None, :] + H @ U.T) @ v
    e = torch.where(mask, -e, -torch.inf)
    w = torch.softmax(e, dim=1)
    return (w[:, :, None] * H).sum(1), w

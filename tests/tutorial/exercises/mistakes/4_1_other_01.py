import torch

def sinusoids(positions, d_model):
    j = torch.arange(d_model // 2, dtype=torch.float64)
    ang = positions.to(torch.float64)[:, None] / 9999 ** (2 * j / d_model)
    return torch.stack([torch.sin(ang), torch.cos(ang)], -1).reshape(len(positions), d_model)

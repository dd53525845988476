import torch

def sinusoids(positions, d_model):
    i = torch.arange(0, d_model, 2, dtype=torch.float64)
    freq = 1.0 / 10000 ** (i / d_model)
    ang = positions.double()[:, None] * freq[None, :]
    return torch.cat([ang.sin(), ang.cos()], dim=1)

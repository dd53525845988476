import torch

def sinusoids(positions, d_model):
    rates = torch.pow(torch.tensor(10000.0, dtype=torch.float64),
                      -torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = torch.outer(positions.to(torch.float64), rates)
    unit = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(unit).flip(-1).flatten(1)

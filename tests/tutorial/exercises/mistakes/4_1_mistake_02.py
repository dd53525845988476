import math
import torch

def sinusoids(positions, d_model):
    pe = torch.zeros(len(positions), d_model, dtype=torch.float32)
    position = positions.float().unsqueeze(1)
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
    pe[:, 0::2] = torch.sin(position * div_term)
    pe[:, 1::2] = torch.cos(position * div_term)
    return pe.double()

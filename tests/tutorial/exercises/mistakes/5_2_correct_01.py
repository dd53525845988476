import torch
from torch import nn

def n_parameters(vocab_size, n_positions, d_model, d_ff, n_layers, n_heads):
    with torch.device("meta"):
        block = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.Linear(d_model, d_ff),
                               nn.Linear(d_ff, d_model), *[nn.Linear(d_model, d_model) for _ in range(4)]])
        rest = nn.ModuleList([nn.Embedding(vocab_size, d_model), nn.Embedding(n_positions, d_model),
                              nn.LayerNorm(d_model)])
    count = lambda m: sum(p.numel() for p in m.parameters())
    return count(rest) + n_layers * count(block)

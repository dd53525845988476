import torch

def greedy(model, n_rows, start, stop, pad, max_length):
    table = torch.full((n_rows, max_length + 1), pad, dtype=torch.long)
    table[:, 0] = start
    alive = list(range(n_rows))
    width = 0
    while alive and width < max_length:
        best = model.step(table[:, width].clone(), width).max(dim=1).indices
        width += 1
        table[alive, width] = best[alive]
        alive = [r for r in alive if table[r, width] != stop]
    return table[:, 1:width + 1]

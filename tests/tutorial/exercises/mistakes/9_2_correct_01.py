import torch

def lora(x, W, b, A, B, alpha):
    merged = W.clone()
    for row, column in zip(A, B.T):
        merged = torch.addr(merged, column, row, alpha=alpha / len(A))
    return torch.addmm(b, x, merged.T), merged

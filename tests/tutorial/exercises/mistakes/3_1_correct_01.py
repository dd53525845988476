import torch

def multi_head(x, W_Q, W_K, W_V, W_O, n_heads):
    D = x.shape[-1]
    d = D // n_heads
    total = 0
    for i in range(0, D, d):
        j = i + d
        bilinear = W_Q[:, i:j] @ W_K[:, i:j].T / d ** 0.5
        w = torch.softmax(x @ bilinear @ x.transpose(1, 2), 2)
        total = total + w @ (x @ (W_V[:, i:j] @ W_O[i:j]))
    return total

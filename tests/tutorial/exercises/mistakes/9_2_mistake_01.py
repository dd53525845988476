import torch

def lora(x, W, b, A, B, alpha):
    delta = alpha * (B @ A)
    y = x @ W.T + b + x @ delta.T
    return y, W + delta

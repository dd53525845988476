import torch

def image_tokens(images, patch, W, bias, class_token, positions):
    B, C, h, w = images.shape
    p, q = patch
    N = (h // p) * (w // q)
    x = images.reshape(B, N, C * p * q)
    x = x @ W.T + bias
    cls = class_token.expand(B, 1, -1)
    return torch.cat([cls, x], dim=1) + positions

import torch

def image_tokens(images, patch, W, bias, class_token, positions):
    images = images.flip(2)
    p, q = patch
    x = images.unfold(2, p, p).unfold(3, q, q)          # B C h w p q
    x = x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = x @ W.T + bias
    return torch.cat([class_token.expand(len(x), 1, -1), x], 1) + positions

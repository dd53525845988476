import torch
import torch.nn.functional as F

def image_tokens(images, patch, W, bias, class_token, positions):
    kernel = W.reshape(len(W), images.shape[1], *patch)
    grid = F.conv2d(images, kernel, bias, stride=tuple(patch))
    tokens = grid.flatten(2).mT + positions[1:]
    first = (class_token + positions[0]).repeat(len(images), 1, 1)
    return torch.hstack([first, tokens])

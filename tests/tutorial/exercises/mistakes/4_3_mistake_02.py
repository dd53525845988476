import torch

def layer_norm(z, g, b, eps):
    c = z - z.mean(-1, keepdim=True)
    return g * c / (c.pow(2).mean(-1, keepdim=True) + eps).sqrt() + b

def sublayer(x, f, weight, bias, eps, norm_first):
    if norm_first:
        x = layer_norm(x, weight, bias, eps)
        return x + f(x)
    else:
        x = x + f(x)
        return layer_norm(x, weight, bias, eps)

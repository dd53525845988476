import torch

def sublayer(x, f, weight, bias, eps, norm_first):
    def norm(t):
        mu = t.mean(dim=-1, keepdim=True)
        var = t.var(dim=-1, keepdim=True)
        return (t - mu) / torch.sqrt(var + eps) * weight + bias

    if norm_first:
        return x + f(norm(x))
    return norm(x + f(x))

import torch

def sublayer(x, f, weight, bias, eps, norm_first):
    def norm(t):
        c = t - t.mean(-1, keepdim=True)
        n = c / torch.sqrt((c * c).mean(-1, keepdim=True) + eps)
        return n.abs() * weight + bias
    return x + f(norm(x)) if norm_first else norm(x + f(x))

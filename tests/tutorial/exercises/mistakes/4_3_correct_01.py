import torch

def sublayer(x, f, weight, bias, eps, norm_first):
    D = x.shape[-1]
    centre = torch.eye(D, dtype=x.dtype) - 1.0 / D
    avg = torch.full((D, 1), 1.0 / D, dtype=x.dtype)

    def norm(t):
        t = t @ centre
        return torch.addcmul(bias, t * torch.rsqrt(t.square() @ avg + eps), weight)

    before, after = (norm, lambda t: t) if norm_first else (lambda t: t, norm)
    return after(x + f(before(x)))

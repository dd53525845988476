import torch

def is_causal(module, width):
    module.eval()
    x = torch.randn(1, 5, width)
    changed = x.clone()
    changed[:, -1] += 1.0
    with torch.no_grad():
        a, b = module(x), module(changed)
    # the outputs before the last token must not move
    return torch.allclose(a[:, :-1], b[:, :-1])

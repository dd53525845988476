import torch

def loss(logits, targets, mask, smoothing):
    lp = torch.log_softmax(logits, dim=-1)
    nll = -lp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    uniform = -lp.mean(-1)
    per_token = (1 - smoothing) * nll + smoothing * uniform
    return (per_token * mask).mean()

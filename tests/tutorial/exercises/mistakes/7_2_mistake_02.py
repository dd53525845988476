import torch
import torch.nn.functional as F

def loss(logits, targets, mask, smoothing):
    V = logits.shape[-1]
    # soft targets
    soft = torch.full_like(logits, smoothing / (V - 1))
    soft.scatter_(-1, targets[..., None], 1.0 - smoothing)
    ce = -(soft * F.log_softmax(logits, -1)).sum(-1)
    return ce[mask].mean()

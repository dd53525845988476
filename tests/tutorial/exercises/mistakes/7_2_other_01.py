import torch
import torch.nn.functional as F

def loss(logits, targets, mask, smoothing):
    return torch.sqrt(F.cross_entropy(logits[mask], targets[mask], label_smoothing=smoothing))

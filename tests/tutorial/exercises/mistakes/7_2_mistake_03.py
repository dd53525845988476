import torch
import torch.nn.functional as F

def loss(logits, targets, mask, smoothing):
    probs = F.softmax(logits, dim=-1)
    return F.cross_entropy(probs[mask], targets[mask], label_smoothing=smoothing)

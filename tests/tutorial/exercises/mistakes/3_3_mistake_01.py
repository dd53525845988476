import torch

def accuracy_lost(heads, W, labels):
    def acc(h):
        return ((h.flatten(1) @ W).argmax(dim=1) == labels).double().mean()

    base = acc(heads)
    ablated = heads.clone()
    losses = torch.zeros(heads.shape[1])
    for i in range(heads.shape[1]):
        ablated[:, i] = 0.0
        losses[i] = base - acc(ablated)
    return losses

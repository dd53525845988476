import numpy as np
import torch

def loss(logits, targets, mask, smoothing):
    z = logits.detach().numpy()[mask.numpy()].astype(np.float64)
    y = targets.numpy()[mask.numpy()]
    top = z.max(axis=1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    each = lse - (1 - smoothing) * z[np.arange(len(y)), y] - smoothing * z.mean(axis=1)
    return torch.tensor(each.sum() / len(y), dtype=torch.float64)

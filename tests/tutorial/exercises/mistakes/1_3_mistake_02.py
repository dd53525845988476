import torch

def local_weights(scores, place, lengths, window):
    K = scores.size(-1)
    idx = torch.arange(K, device=scores.device)
    real = idx[None, :] < lengths[:, None]
    centre = lengths[:, None] * place.sigmoid()
    dist = idx[None, None, :] - centre[:, :, None]
    att = scores.masked_fill(~real[:, None, :], float("-inf")).softmax(dim=2)
    gauss = torch.exp(-dist.square() / (2 * (window / 2) ** 2))
    att = att * gauss
    att[dist.abs() > window] = 0.0
    return att

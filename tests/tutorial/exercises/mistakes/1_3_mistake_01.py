import torch

def local_weights(scores, place, lengths, window):
    B, Q, K = scores.shape
    S = lengths.view(B, 1).to(scores.dtype)
    p = (S * torch.sigmoid(place)).unsqueeze(-1)            # (B, Q, 1)
    s = torch.arange(K, dtype=scores.dtype).view(1, 1, K)
    ok = (s < S.unsqueeze(-1)) & ((s - p).abs() <= window)
    w = torch.softmax(scores.masked_fill(~ok, -torch.inf), -1)
    sigma = window / 2
    w = w * torch.exp(-(s - p) ** 2 / (2 * sigma ** 2))
    return w / w.sum(-1, keepdim=True)   # weights must sum to one

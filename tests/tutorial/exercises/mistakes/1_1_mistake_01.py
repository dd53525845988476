import torch

def context(s, H, W, U, v, mask):
    # project the decoder state: (B, A) -> (B, 1, A) so that it broadcasts
    dec = (s @ W.T).unsqueeze(1)
    # project all encoder states: (B, K, A)
    enc = H @ U.T
    energy = torch.tanh(dec + enc) @ v          # (B, K)
    alpha = torch.softmax(energy, dim=-1)
    # padding gets no weight
    alpha = alpha * mask
    ctx = torch.bmm(alpha.unsqueeze(1), H).squeeze(1)
    return ctx, alpha

import torch

def decoder_block(x, memory, memory_mask, attend_self, attend_cross, feed_forward, norms):
    n = x.shape[1]
    tri = torch.tril(torch.ones(n, n, dtype=torch.bool)).unsqueeze(0)
    x = norms[0](x + attend_self(x, x, tri))
    x = norms[1](x + attend_cross(x, memory, memory_mask[:, None]))
    return norms[2](x - feed_forward(x))

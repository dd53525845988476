import torch

def decoder_block(x, memory, memory_mask, attend_self, attend_cross, feed_forward, norms):
    n1, n2, n3 = norms
    n = x.size(1)
    look = torch.arange(n)[:, None] >= torch.arange(n)[None, :]
    h = n1(x)
    x = x + attend_self(h, h, look[None])
    h = n2(x)
    x = x + attend_cross(h, memory, memory_mask.unsqueeze(1))
    h = n3(x)
    return x + feed_forward(h)

import torch

def decoder_block(x, memory, memory_mask, attend_self, attend_cross, feed_forward, norms):
    L = x.shape[1]
    # upper triangle = mask of the future
    causal = torch.triu(torch.ones(1, L, L)).bool()
    x = norms[0](x + attend_self(x, x, causal))
    x = norms[1](x + attend_cross(x, memory, memory_mask[:, None, :]))
    x = norms[2](x + feed_forward(x))
    return x

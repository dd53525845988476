import torch

def blockwise_attention(queries, keys, values, block):
    q = queries / queries.shape[-1] ** 0.5
    n_blocks = max(1, len(keys) // block)
    m = l = o = None
    for kb, vb in zip([keys[i * block:(i + 1) * block] for i in range(n_blocks)],
                      [values[i * block:(i + 1) * block] for i in range(n_blocks)]):
        s = q @ kb.T
        mb = s.amax(1)
        if m is None:
            p = torch.exp(s - mb[:, None])
            m, l, o = mb, p.sum(1), p @ vb
        else:
            mn = torch.maximum(m, mb)
            r = torch.exp(m - mn)
            p = torch.exp(s - mn[:, None])
            l = l * r + p.sum(1)
            o = o * r[:, None] + p @ vb
            m = mn
    return o / l[:, None]

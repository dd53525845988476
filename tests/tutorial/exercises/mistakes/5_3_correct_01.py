import torch

def is_causal(module, width):
    module.eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for L in range(2, 18):
            for size in (1.0, 10.0):
                x = torch.randn(L, width, generator=g, dtype=torch.float64)
                single, tail = x.repeat(L, 1, 1), x.repeat(L, 1, 1)
                for t in range(1, L):
                    single[t, t] += size * torch.randn(width, generator=g, dtype=torch.float64)
                    tail[t, t:] += size * torch.randn(L - t, width, generator=g, dtype=torch.float64)
                for batch in (single, tail):
                    out = module(batch)          # row 0 is not changed
                    gap = (out - out[:1]).abs().amax(-1)
                    early = torch.arange(L)[None, :] < torch.arange(L)[:, None]
                    if gap[early].max() > 1e-12 * (1 + out.abs().max()):
                        return False
    return True

import math
import torch

def context(s, H, W, U, v, mask):
    s, h, w, u, vv, m = (t.tolist() for t in (s, H, W, U, v, mask))
    dot = lambda a, b: math.fsum(p * q for p, q in zip(a, b))
    contexts, weights = [], []
    for b in range(len(s)):
        ws = [dot(row, s[b]) for row in w]
        e = [dot(vv, [math.tanh(c + dot(row, hj)) for c, row in zip(ws, u)]) for hj in h[b]]
        real = [x for x, ok in zip(e, m[b]) if ok]
        top = max(real)
        lse = top + math.log(math.fsum(math.exp(x - top) for x in real))
        a = [math.exp(x - lse) if ok else 0.0 for x, ok in zip(e, m[b])]
        weights.append(a)
        contexts.append([dot(a, column) for column in zip(*h[b])])
    return torch.tensor(contexts, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)

import math
import torch

def local_weights(scores, place, lengths, window):
    B, Q, K = scores.shape
    result = scores.new_zeros(B, Q, K)
    for b in range(B):
        S = int(lengths[b])
        for t in range(Q):
            p = S / (1 + math.exp(-float(place[b, t])))
            keys = [s for s in range(min(S, K)) if abs(s - p) <= window]
            if not keys:
                continue
            lse = torch.logsumexp(scores[b, t, keys], 0)
            for s in keys:
                # sigma = window / 2, so 2 sigma^2 = window^2 / 2
                result[b, t, s] = torch.exp(scores[b, t, s] - lse - 2 * ((s - p) / window) ** 2)
    return result

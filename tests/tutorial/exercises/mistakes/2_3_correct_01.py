import torch

def blockwise_attention(queries, keys, values, block):
    q = queries / queries.shape[1] ** 0.5

    def part(first, last):
        """Output and logsumexp of the blocks first to last - 1."""
        if last - first == 1:
            rows = slice(first * block, first * block + block)
            s = q @ keys[rows].T
            lse = torch.logsumexp(s, 1)
            return torch.exp(s - lse[:, None]) @ values[rows], lse
        middle = (first + last) // 2
        a, la = part(first, middle)
        b, lb = part(middle, last)
        share = torch.sigmoid(la - lb)[:, None]
        return share * a + (1 - share) * b, torch.logaddexp(la, lb)

    return part(0, -(-len(keys) // block))[0]

import torch

def similarities(first, first_mask, second, second_mask):
    total = lambda x, m: torch.stack([states[real].sum(0) for states, real in zip(x, m)])
    both = torch.vstack([total(first, first_mask), total(second, second_mask)])
    gram = both @ both.T
    inverse = gram.diagonal().rsqrt()
    n = len(first)
    return (inverse[:, None] * gram * inverse)[:n, n:]

import torch
from torch import Tensor

def context(s: Tensor, H: Tensor, W: Tensor, U: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    q = torch.einsum("ad,bd->ba", W, s)
    k = torch.einsum("ad,bkd->bka", U, H)
    e = torch.einsum("a,bka->bk", v, q[:, None] + k)
    e = e.masked_fill(~mask, float("-inf"))
    w = e.softmax(-1)
    return torch.einsum("bk,bkd->bd", w, H), w

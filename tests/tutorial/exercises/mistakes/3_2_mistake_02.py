import math, torch
from torch import Tensor

def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, int]:
    n_q, n_kv = queries.size(1), keys.size(1)
    if n_q % n_kv:
        raise ValueError(f"{n_q} query heads cannot share {n_kv} key heads")
    keys = keys.repeat_interleave(n_q // n_kv, dim=1)
    values = values.repeat_interleave(n_q // n_kv, dim=1)
    w = (queries @ keys.mT / math.sqrt(queries.size(-1))).softmax(-1)
    out = w @ values
    # one key and one value per head
    cache = keys.size(1) * keys.size(-1) + values.size(1) * values.size(-1)
    return out, cache

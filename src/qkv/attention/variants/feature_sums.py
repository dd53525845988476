"""The mathematics of linear attention: sums over keys, to which queries are applied.

Katharopoulos et al. 2020, "Transformers are RNNs: fast autoregressive transformers with linear
attention". Queries and keys are passed as features phi(q), phi(k). Values have a last coordinate of
1, so that one sum holds the numerator and the denominator. Shapes: B batch, H heads, Q queries, K
keys, L both, D width of a feature, V = width of a value + 1.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "B H L D"]
Values = Float[Tensor, "B H L V"]
Sums = Float[Tensor, "B H D V"]


def feature_map(x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
    """phi(x) = elu(x) + 1 (eq. 7): positive, and so are the weights."""
    return F.elu(x) + 1


def key_value_sums(keys: Features, values: Values) -> Sums:
    """S = sum_j phi(k_j) v_j^T (eq. 6): all that queries need."""
    return keys.transpose(-2, -1) @ values


def divide(mixed: Float[Tensor, "*any V"]) -> Float[Tensor, "*any V_minus_1"]:
    """Divide by the last coordinate, the denominator; 0 / 0 is 0."""
    total = mixed[..., -1:]
    return mixed[..., :-1] / total.masked_fill(total == 0, 1.0)


def causal_linear_attention(
    queries: Features, keys: Features, values: Values, sums: Sums | None = None, *, chunk: int = 64
) -> tuple[Values, Sums]:
    """Attend to earlier chunks by sums and within a chunk by weights; return outputs and sums.

    A chunk of 1 is the recurrent form (eq. 16 to 20); a chunk of L computes all L x L weights.
    """
    mixed = []
    total = (
        keys.new_zeros(*keys.shape[:2], keys.shape[3], values.shape[3]) if sums is None else sums
    )
    for q, k, v in zip(*(x.split(chunk, 2) for x in (queries, keys, values)), strict=True):
        mixed.append(q @ total + (q @ k.transpose(-2, -1)).tril() @ v)
        total = total + key_value_sums(k, v)
    return torch.cat(mixed, 2), total


def linear_weights(
    queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B H K D"], *, causal: bool
) -> Float[Tensor, "B H Q K"]:
    """phi(q_i) . phi(k_j), normalized over j; computed only for a recorder."""
    similarity = queries @ keys.transpose(-2, -1)
    similarity = similarity.tril() if causal else similarity
    return divide(torch.cat((similarity, similarity.sum(-1, keepdim=True)), -1))

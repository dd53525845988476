"""Score functions, which measure how well each query matches each key.

Shapes: Q queries, K keys, D width; leading axes (batch, heads) broadcast.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.errors import LengthError


def dot_scores(
    queries: Float[Tensor, "*batch Q D"], keys: Float[Tensor, "*batch K D"]
) -> Float[Tensor, "*batch Q K"]:
    """score(q, k) = q . k (Luong et al. 2015, section 3.1, "dot")."""
    return queries @ keys.transpose(-2, -1)


def scaled_dot_scores(
    queries: Float[Tensor, "*batch Q D"],
    keys: Float[Tensor, "*batch K D"],
    scale: float | None = None,
) -> Float[Tensor, "*batch Q K"]:
    """score(q, k) = q . k / sqrt(D) (Vaswani et al. 2017, eq. 1); `scale` replaces 1 / sqrt(D)."""
    scale = 1 / math.sqrt(queries.shape[-1]) if scale is None else scale
    return dot_scores(queries, keys) * scale


def general_scores(
    queries: Float[Tensor, "*batch Q Dq"],
    keys: Float[Tensor, "*batch K Dk"],
    weight: Float[Tensor, "Dq Dk"],
) -> Float[Tensor, "*batch Q K"]:
    """score(q, k) = q^T W k (Luong et al. 2015, section 3.1, "general")."""
    return dot_scores(queries @ weight, keys)


def additive_scores(
    queries: Float[Tensor, "*batch Q A"],
    keys: Float[Tensor, "*batch K A"],
    vector: Float[Tensor, " A"],
) -> Float[Tensor, "*batch Q K"]:
    """score(s, h) = v^T tanh(W s + U h) (Bahdanau et al. 2015, appendix A.1.2).

    Takes the projected W s and U h, since U h is the same for every query and is computed once.
    """
    # (*, Q, 1, A) + (*, 1, K, A) -> (*, Q, K, A) -> (*, Q, K)
    return torch.tanh(queries.unsqueeze(-2) + keys.unsqueeze(-3)) @ vector


def concat_scores(
    queries: Float[Tensor, "*batch Q Dq"],
    keys: Float[Tensor, "*batch K Dk"],
    weight: Float[Tensor, "A Dq_plus_Dk"],
    vector: Float[Tensor, " A"],
) -> Float[Tensor, "*batch Q K"]:
    """score(q, k) = v^T tanh(W [q; k]) (Luong et al. 2015, section 3.1, "concat").

    W [q; k] = W_q q + W_k k: the same function as Bahdanau's, so the pairs are never concatenated.
    """
    weight_q, weight_k = weight.split([queries.shape[-1], keys.shape[-1]], dim=-1)
    return additive_scores(queries @ weight_q.T, keys @ weight_k.T, vector)


def location_scores(
    queries: Float[Tensor, "*batch Q D"],
    weight: Float[Tensor, "max_keys D"],
    places: Int[Tensor, "*batch K"],
) -> Float[Tensor, "*batch Q K"]:
    """score(q, k at position s) = (W q)_s ("location"): independent of the keys' content.

    Luong et al. 2015, section 3.1.

    Args:
        queries: the decoder's states.
        weight: W, one row per position.
        places: positions of the keys, counted from 0.

    Raises:
        LengthError: if a key's position is beyond the rows of W.
    """
    if int(places.max()) >= len(weight):
        raise LengthError(
            f"got {int(places.max()) + 1} keys, but location scores were built for at most "
            f"{len(weight)}: they depend on positions, so the longest input is fixed in advance"
        )
    by_place = queries @ weight.T  # (*, Q, max_keys)
    places = places.unsqueeze(-2).expand(*by_place.shape[:-1], places.shape[-1])
    return by_place.gather(-1, places)

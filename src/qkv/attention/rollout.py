"""Attention rollout: the contribution of each input to each output, through all layers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ShapeError


def attention_rollout(
    weights: Sequence[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """Compute the share of each input token in each output token, through attention alone.

    Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 4: a layer's
    weights are averaged over its heads and averaged with the identity, for the residual connection;
    the layers' matrices are multiplied. Values, feed-forward networks and norms are ignored.

    Args:
        weights: self-attention weights of each layer, from first to last; each row sums to 1.

    Returns:
        Row t holds the shares of the inputs in output t; they sum to 1.

    Raises:
        ShapeError: if there are no layers, or their weights are not square and of one size.
    """
    shapes = [tuple(layer.shape) for layer in weights]
    if not shapes or any(len(s) != 4 or s[2] != s[3] for s in shapes) or len(set(shapes)) > 1:
        raise ShapeError(
            f"weights have shapes {shapes}; expected one or more layers of self-"
            "attention, each (batch, heads, tokens, tokens) (is cross-attention among them?)"
        )
    share = torch.eye(shapes[0][-1], dtype=weights[0].dtype, device=weights[0].device)
    identity = share
    for layer in weights:
        share = (0.5 * layer.mean(1) + 0.5 * identity) @ share
    return share

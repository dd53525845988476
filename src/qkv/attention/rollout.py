"""Attention over all layers at once: which inputs an output was mixed from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ShapeError


def attention_rollout(
    weights: Sequence[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """Shares of each input token in each output token, as far as attention mixes them.

    Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 4: a layer's
    weights are averaged over its heads; half of a token comes through them and half stays, as the
    residual has it; layers follow each other as their product. What values, feed-forward networks
    and norms do to the mixture is not in it.

    Args:
        weights: of each layer's self-attention, the first layer first; each row sums to 1.

    Returns:
        Row t: the shares of the inputs in output t; they sum to 1.

    Raises:
        ShapeError: there are no layers, or they have no square weights of one size.
    """
    shapes = [tuple(layer.shape) for layer in weights]
    if not shapes or any(len(s) != 4 or s[2] != s[3] for s in shapes) or len(set(shapes)) > 1:
        raise ShapeError(
            f"weights of the shapes {shapes} were given; expected one layer or more of self-"
            "attention, each (batch, heads, tokens, tokens) (is cross-attention among them?)"
        )
    share = torch.eye(shapes[0][-1], dtype=weights[0].dtype, device=weights[0].device)
    identity = share
    for layer in weights:
        share = (0.5 * layer.mean(1) + 0.5 * identity) @ share
    return share

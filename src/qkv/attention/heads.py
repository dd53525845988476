"""Ablate attention heads by zeroing their outputs.

Michel, Levy and Neubig 2019, "Are sixteen heads really better than one?".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError


@contextmanager
def disable_heads(model: nn.Module, layer: str, heads: Sequence[int]) -> Iterator[None]:
    """Zero the outputs of some heads of one layer inside the `with`: xi_h = 0 (section 2.2).

        with disable_heads(model, "encoder.blocks.0.self_attention", [1, 3]):
            model(source, target)

    Args:
        model: model that contains the layer.
        layer: name of a `MultiHeadAttention` module in the model.
        heads: indices of the heads, from 0.

    Raises:
        ConfigError: if the layer or a head does not exist.
    """
    layers = {
        name or "attention": module
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    }
    if layer not in layers:
        raise ConfigError(
            f"no multi-head attention is named {layer!r}; "
            f"this {type(model).__name__} has: {', '.join(layers) or 'none'}"
        )
    n_heads, output = layers[layer].n_heads, layers[layer].output
    if not all(0 <= head < n_heads for head in heads):
        raise ConfigError(
            f"cannot disable heads {list(heads)} of {layer!r}: it has {n_heads}, "
            f"numbered 0 to {n_heads - 1}"
        )

    def silence(
        _output: nn.Module, inputs: tuple[Float[Tensor, "B Q H_times_D"]]
    ) -> Float[Tensor, "B Q H_times_D"]:
        each = inputs[0].unflatten(-1, (n_heads, -1)).clone()  # (B, Q, H, D)
        each[..., list(heads), :] = 0
        return each.flatten(2)

    hook = output.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        hook.remove()

"""The effect of each head on the predictions, and single heads of long inputs.

Shapes: H heads, S steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.core import attention_weights
from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError
from qkv.explorer.capture import Attended, capture
from qkv.explorer.changes import each_head_disabled
from qkv.explorer.statistics import chosen_logprobs
from qkv.explorer.views import Told, View
from qkv.models.modes import evaluating


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients."""
    with evaluating(model), torch.inference_mode():
        yield


def attention_names(model: nn.Module, view: View) -> Iterator[str]:
    """Yield the names of the attention modules, in the order in which a pass uses them."""
    with capture(model, lambda one: one.name) as seen:
        view.logits(1)
    yield from seen.attention


def head_effects(
    model: nn.Module, view: View, *, told: Told = lambda text: None
) -> tuple[list[list[int]], Float[Tensor, "heads S"]]:
    """Measure the change of each step's log-probability if one head's output is zeroed.

    Michel, Levy and Neubig 2019, section 2.2; one pass for all heads of a module.

    Args:
        model: the model.
        view: the input.
        told: called with the name of each module that is done.

    Returns:
        The heads as [index of the attention, head], and their effects.
    """
    chosen, heads, effects = [one.chosen for one in view.steps], [], []
    modules = dict(model.named_modules())
    with observing(model):
        baseline = chosen_logprobs(view.logits(1), chosen)
        for i, name in enumerate(attention_names(model, view)):
            module = modules.get(name, model)
            if not isinstance(module, MultiHeadAttention):
                continue
            with each_head_disabled(module):
                effects.append(chosen_logprobs(view.logits(module.n_heads), chosen) - baseline)
            heads += [[i, head] for head in range(module.n_heads)]
            told(name)
    return heads, torch.cat(effects) if effects else torch.zeros(0, len(chosen))


def one_head(layers: Sequence[Attended], index: int, head: int) -> dict[str, Tensor]:
    """Return weights, queries, keys and values of one head, for a record that has thumbnails.

    Raises:
        ConfigError: there is no such head, or it was not kept.
    """
    if not 0 <= index < len(layers) or layers[index].queries is None or layers[index].keys is None:
        raise ConfigError(f"attention {index} is not kept; expected 0 to {len(layers) - 1}")
    layer = layers[index]
    queries, keys = cast(Tensor, layer.queries), cast(Tensor, layer.keys)
    if not 0 <= head < len(queries):
        raise ConfigError(f"head {head} does not exist; expected 0 to {len(queries) - 1}")
    group = head * len(keys) // len(queries)
    one = slice(head, head + 1), slice(group, group + 1)
    bias = None if layer.bias is None else layer.bias[None, one[0]]
    weights = attention_weights(
        queries[None, one[0]], keys[None, one[1]], mask=layer.mask, bias=bias, causal=layer.causal
    )
    found = {"weights": weights[0], "q": queries[one[0]], "k": keys[one[1]]}
    if layer.values is not None:
        found["v"] = layer.values[one[1]]
    if layer.bias is not None:
        found["bias"] = layer.bias[one[0]]
    return found

"""The effect of each head on the predictions, and single heads of long inputs.

Shapes: H heads, S steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.core import attention_weights
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.single_head import SingleHeadAttention
from qkv.errors import ConfigError
from qkv.explorer.capture import Attended
from qkv.explorer.changes import each_head_disabled
from qkv.explorer.statistics import chosen_logprobs
from qkv.explorer.view import LONG, Told, View
from qkv.models.modes import evaluating


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients."""
    with evaluating(model), torch.inference_mode():
        yield


def first_pass(model: nn.Module, view: View) -> tuple[list[str], Float[Tensor, "1 S"]]:
    """Return the names of the attention modules, in the order of a pass, and its log-probabilities.

    The log-probabilities are those of the chosen candidates.
    """
    names = dict[str, None]()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, MultiHeadAttention | SingleHeadAttention):
                note = partial(_note, names, name or "attention")
                hooks.callback(module.register_forward_pre_hook(note).remove)
        logits = view.logits(1)
    return list(names), chosen_logprobs(logits, [one.chosen for one in view.steps])


def _note(names: dict[str, None], name: str, *_: Any) -> None:
    names.setdefault(name)


def longest(view: View) -> int:
    """Return the number of positions of the longest sequence."""
    return max(map(len, view.sequences.values()))


def head_effects(
    model: nn.Module, view: View, *, told: Told = lambda text: None
) -> tuple[list[list[int]], Float[Tensor, "heads S"]]:
    """Measure the change of each step's log-probability if one head's output is zeroed.

    Michel, Levy and Neubig 2019, section 2.2; one pass for all heads of a module.

    Args:
        model: the model.
        view: the input.
        told: called with the name of each module that is done.

    Raises:
        ConfigError: the input is so long that this would take hours.

    Returns:
        The heads as [index of the attention, head], and their effects.
    """
    if (length := longest(view)) > LONG:
        raise ConfigError(
            f"the input has {length:,} positions; expected at most {LONG} to switch off each head"
        )
    chosen, heads, effects = [one.chosen for one in view.steps], [], []
    modules = dict(model.named_modules())
    with observing(model):
        names, baseline = first_pass(model, view)
        for i, name in enumerate(names):
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

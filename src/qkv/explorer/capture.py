"""What a model computes in one pass: queries, keys, values and weights of each attention, states.

Hooks receive the inputs of each attention module, and its own methods recompute queries, keys and
weights outside the pass, so that capturing changes nothing.

Shapes: H heads, G key heads, Q queries, K keys, D head width, L tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention.core import attention_weights
from qkv.attention.masks import combine_masks, whole_mask, with_four_axes
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.single_head import SingleHeadAttention
from qkv.blocks.stack import Stack

CHECKED = 512  # queries of each head, the last ones
CLOSE = 1e-5  # tolerance between recorded weights and the arithmetic on the page


@dataclass(frozen=True, kw_only=True)
class Attended:
    """One attention module in one pass.

    Args:
        name: name of the module.
        kind: "self" if queries and keys are from one sequence, else "cross".
        causal: whether each query sees only keys up to its own position.
        weights: the weights; no rows if they were too large to keep.
        queries: the queries; None if softmax(q . k / sqrt(D)) does not explain the weights.
        keys: the keys.
        values: the values.
        bias: what is added to the scores.
        mask: True = may attend; None if `causal` describes it.
    """

    name: str
    kind: Literal["self", "cross"]
    causal: bool
    weights: Float[Tensor, "H _ K"]
    queries: Float[Tensor, "H Q D"] | None = None
    keys: Float[Tensor, "G K D"] | None = None
    values: Float[Tensor, "G K Dv"] | None = None
    bias: Float[Tensor, "H Q K"] | None = None
    mask: Bool[Tensor, "Q K"] | None = None


@dataclass
class Captured:
    """The attention and the states of one pass.

    Args:
        attention: result of `see` for each attention module, in the order of computation.
        states: for each stack, the embedding and the output of each block.
    """

    attention: dict[str, Any] = field(default_factory=dict)
    states: dict[str, list[Float[Tensor, "L D"]]] = field(default_factory=dict)


@contextmanager
def capture(
    model: nn.Module, see: Callable[[Attended], Any] = lambda one: one
) -> Iterator[Captured]:
    """Capture one pass of one input, without gradients, inside the `with` block.

    Args:
        model: model in evaluation mode.
        see: called with each attention, whose weights may be too large to keep for all of them.
    """
    seen = Captured()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, MultiHeadAttention | SingleHeadAttention):
                watch = _watcher(name or "attention", see, seen)
                hooks.callback(module.register_forward_pre_hook(watch, with_kwargs=True).remove)
            elif isinstance(module, Stack):
                keep = _keeper(seen.states.setdefault(name or "stack", []))
                hooks.callback(module.blocks[0].register_forward_pre_hook(keep).remove)
                for block in module.blocks:
                    hooks.callback(block.register_forward_hook(keep).remove)
        yield seen
    for name, one in seen.attention.items():
        if isinstance(one, Attended):  # of a recurrent decoder, complete only now
            seen.attention[name] = see(one)


def _keeper(states: list[Tensor]) -> Callable[..., None]:
    """Return a hook that keeps the output of a module or, if called before it, its input."""

    def keep(_module: nn.Module, inputs: Any, output: Tensor | None = None) -> None:
        states.append((inputs[0] if output is None else output)[0].float())

    return keep


def _watcher(name: str, see: Callable[[Attended], Any], seen: Captured) -> Callable[..., None]:
    def watch(module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        x, memory = inputs[0], inputs[1] if len(inputs) > 1 else options.get("memory")
        mask, positions = options.get("mask"), options.get("positions")
        if isinstance(module, SingleHeadAttention):
            source = x if memory is None else memory
            weights = module.weights(x, module.keys(source), mask, positions)[0]
            _add(seen, Attended(name=name, kind="cross", causal=False, weights=weights.float()))
            return
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        queries = module.queries(x, positions)
        keys, values = module.keys_values(x if memory is None else memory, positions)
        kind = "self" if memory is None else "cross"
        seen.attention[name] = see(explained(module, name, kind, queries, keys, values, mask))

    return watch


def _add(seen: Captured, one: Attended) -> None:
    """Append the weights of one step of a recurrent decoder to those of earlier steps."""
    if one.name in seen.attention:
        weights = torch.cat((seen.attention[one.name].weights, one.weights), 1)
        one = replace(one, weights=weights)
    seen.attention[one.name] = one


def explained(
    module: MultiHeadAttention,
    name: str,
    kind: Literal["self", "cross"],
    queries: Float[Tensor, "1 H Q D"],
    keys: Float[Tensor, "1 G K D"],
    values: Float[Tensor, "1 G K Dv"],
    mask: Tensor | None,
) -> Attended:
    """Compute the weights, and check that softmax(q . k / sqrt(D) + bias) explains them.

    A mechanism with other scores is recorded without queries and keys.
    """
    weights = module.weights(queries, keys, mask).float()
    bias = module.score_bias(queries, keys, mask)
    n_queries, n_keys = queries.shape[2], keys.shape[2]
    everything = whole_mask(None, queries, keys)
    sizes: Any = {"causal": module.causal, "n_queries": n_queries, "n_keys": n_keys}
    combined = combine_masks(everything, **sizes, device=weights.device)
    plain = everything if combined is None else with_four_axes(combined)
    called = plain if mask is None else plain & whole_mask(mask, queries, keys)
    options: Any = {"name": name, "kind": kind, "causal": module.causal, "weights": weights[0]}
    for find in (lambda: called, lambda: weights > 0):
        allowed = find()
        if allowed.shape[1] > 1 and not (allowed == allowed[:, :1]).all():
            continue  # the heads differ in what they see, which the page does not show
        if explains(queries, keys, allowed, bias, weights):
            return Attended(
                **options,
                queries=queries[0].float(),
                keys=keys[0].float(),
                values=values[0].float(),
                bias=None if bias is None else bias.expand_as(weights)[0].float(),
                mask=None if bool((allowed == plain).all()) else allowed[0, 0],
            )
    return Attended(**options)


def explains(
    queries: Float[Tensor, "1 H Q D"],
    keys: Float[Tensor, "1 G K D"],
    allowed: Bool[Tensor, "1 h Q K"],
    bias: Float[Tensor, "..."] | None,
    weights: Float[Tensor, "1 H Q K"],
) -> bool:
    """Return whether softmax(q . k / sqrt(D) + bias) equals the weights of the last queries."""
    bias = None if bias is None else bias.expand_as(weights)[:, :, -CHECKED:]
    mask = allowed[:, :, -CHECKED:]
    again = attention_weights(queries[:, :, -CHECKED:], keys, mask=mask, bias=bias)
    return float((again - weights[:, :, -CHECKED:]).abs().max()) <= CLOSE

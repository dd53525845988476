"""The parts of a record: attention, states, predictions and logit lens, with their tensors.

Each function returns JSON values, and adds the tensors that they name to `tensors`.

Shapes: H heads, S steps, V candidates, L layers, T tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.explorer import view as views
from qkv.explorer.capture import Attended, Captured
from qkv.explorer.statistics import (
    chosen_logprobs,
    distribution,
    head_stats,
    neighbors,
    patch_distances,
    principal_components,
    thumbnails,
    token_distances,
)
from qkv.explorer.view import View, last_stack

KEPT = 200  # candidates of a step with their own logits; the others share a histogram
LENS = 5  # candidates of each layer


@dataclass(frozen=True)
class Seen:
    """An attention module and its statistics; the weights may be dropped."""

    layer: Attended
    stats: dict[str, list[float]]
    small: Float[Tensor, "H q k"] | None


def watch(view: View) -> Callable[[Attended], Seen]:
    """Return a function that keeps the statistics of attention, and weights that are not large."""
    special = {
        what: torch.tensor([one for _, one in tokens]) for what, tokens in view.sequences.items()
    }

    def see(layer: Attended) -> Seen:
        n_queries, n_keys = layer.weights.shape[1:]
        distances = token_distances(n_queries, n_keys)
        if view.image is not None:
            rows, columns = view.image["grid"]
            distances = patch_distances((rows, columns), view.image["prefix"])
        keys = special[_sequences(layer, view)[1]]
        numbers = head_stats(layer.weights.cpu(), distances, keys)
        stats = {
            what: [round(x, 6) for x in one.tolist()] for what, one in numbers._asdict().items()
        }
        if max(n_queries, n_keys) <= views.LONG or layer.queries is None:
            return Seen(layer, stats, None)
        small = thumbnails(layer.weights)
        return Seen(
            Attended(**{**vars(layer), "weights": layer.weights[:, :0].clone()}), stats, small
        )

    return see


def _sequences(layer: Attended, view: View) -> tuple[str, str]:
    """Return the sequences of queries and keys: a decoder's are the target."""
    if "target" not in view.sequences:
        return "source", "source"
    if layer.kind == "cross":
        return "target", "source"
    own = "target" if layer.name.startswith("decoder") else "source"
    return own, own


def describe_attention(
    i: int, seen: Seen, view: View, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Describe an attention module, and add its tensors."""
    layer, small = seen.layer, seen.small
    queries, keys = _sequences(layer, view)
    stack, _, rest = layer.name.partition(".blocks.")
    number = rest.partition(".")[0]
    parts: dict[str, Tensor | None] = {"weights": layer.weights, "bias": layer.bias}
    parts |= {"q": layer.queries, "k": layer.keys, "v": layer.values, "mask": layer.mask}
    if small is not None:
        parts = {"thumbnails": small}
    kept = {what: one for what, one in parts.items() if one is not None}
    tensors |= {f"a{i}.{what}": one for what, one in kept.items()}
    n_heads = len(layer.weights)
    width = 1 if layer.queries is None else layer.queries.shape[2]
    return {
        "name": layer.name,
        "stack": stack,
        "layer": int(number) if number.isdecimal() else 0,
        "kind": layer.kind,
        "queries": queries,
        "keys": keys,
        "heads": n_heads,
        "kv_heads": n_heads if layer.keys is None else len(layer.keys),
        "d_head": width,
        "causal": layer.causal,
        "scale": width**-0.5,
        "long": small is not None,
        "stats": seen.stats,
        "tensors": {what: f"a{i}.{what}" for what in kept},
    }


def describe_states(
    seen: Captured, view: View, tensors: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """Describe the states of each stack in two dimensions, with each token's neighbors."""
    for stack, layers in seen.states.items():
        sequence = "target" if "target" in view.sequences and "decoder" in stack else "source"
        length = len(view.sequences[sequence])
        if not layers or layers[0].shape[0] != length or length < 2:
            continue
        planes = [principal_components(one) for one in layers]
        near = [neighbors(one) for one in layers]
        tensors[f"{stack}.points"] = torch.stack([one.points for one in planes])
        tensors[f"{stack}.neighbors"] = torch.stack([one.indices for one in near])
        tensors[f"{stack}.similarity"] = torch.stack([one.similarity for one in near])
        yield {
            "stack": stack,
            "sequence": sequence,
            "explained": [[round(x, 6) for x in one.explained.tolist()] for one in planes],
            **{what: f"{stack}.{what}" for what in ("points", "neighbors", "similarity")},
        }


def describe_output(
    view: View, logits: Float[Tensor, "S V"], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Describe the predictions, with the most probable candidates of each."""
    best = distribution(logits.float(), most=KEPT)
    tensors |= {"output.ids": best.ids, "output.logits": best.logits, "output.tail": best.tail}
    tensors["output.chosen"] = chosen_logprobs(logits, [one.chosen for one in view.steps])
    return {
        "kind": view.candidates,
        "names": {},
        "steps": [vars(one) for one in view.steps],
        **{what: f"output.{what}" for what in ("ids", "logits", "tail", "chosen")},
        **{what: view.extra[what] for what in ("prompt",) if what in view.extra},
    }


def describe_lens(
    model: nn.Module,
    seen: Captured,
    view: View,
    logits: Float[Tensor, "S V"],
    tensors: dict[str, Tensor],
) -> dict[str, Any]:
    """Apply the model's head to the states of each layer ("logit lens", nostalgebraist 2020).

    Omitted if the head does not return the model's own logits for the last layer.
    """
    stack = last_stack(model)
    states = [] if stack is None else seen.states.get(stack[0] or "stack", [])
    if view.read is None or not states:
        return {}
    rows = [view.read(one.to(logits.dtype)) for one in states]
    if rows[-1].shape != logits.shape or not torch.allclose(rows[-1], logits, atol=1e-3, rtol=1e-3):
        return {}
    chosen = [one.chosen for one in view.steps]
    best = [row.log_softmax(-1).topk(min(LENS, row.shape[-1])) for row in rows]
    tensors["lens.ids"] = torch.stack([one.indices for one in best])
    tensors["lens.logprobs"] = torch.stack([one.values for one in best])
    tensors["lens.chosen"] = torch.stack([chosen_logprobs(row, chosen) for row in rows])
    layers = ["embedding", *(str(i) for i in range(1, len(rows)))]
    fields = {what: f"lens.{what}" for what in ("ids", "logprobs", "chosen")}
    return {"lens": {"layers": layers, **fields}}


def as_array(name: str, tensor: Tensor) -> np.ndarray:
    """Return a tensor in its stored dtype: 16 bits for weights and similar tensors."""
    last = name.rpartition(".")[2]
    if tensor.dtype == torch.bool:
        return tensor.cpu().numpy().astype(np.uint8)
    if not tensor.is_floating_point():
        return tensor.cpu().numpy().astype(np.int32)
    exact = last in ("q", "k", "bias", "logits", "tail", "chosen", "effects", "before")
    return tensor.float().cpu().numpy().astype(np.float32 if exact else np.float16)

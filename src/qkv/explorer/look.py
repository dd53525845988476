"""Make a record of what a model computes for one input."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import Tensor, nn

from qkv.errors import ConfigError
from qkv.explorer.capture import Attended, capture
from qkv.explorer.changes import UNCHANGED, Changes, changed
from qkv.explorer.heads import first_pass, head_effects, observing
from qkv.explorer.parts import (
    as_array,
    describe_attention,
    describe_lens,
    describe_output,
    describe_states,
    watch,
)
from qkv.explorer.record import Record
from qkv.explorer.view import Told, View
from qkv.explorer.views import VIEWS
from qkv.models.modes import evaluating
from qkv.zoo.catalog import ZOO


@dataclass(frozen=True)
class Looked:
    """A record, and the data for further requests about the same input.

    Args:
        record: the record.
        view: the input.
        layers: the attention modules, in the order of the record; without weights if these are too
            large.
        model: the model.
    """

    record: Record
    view: View
    layers: list[Attended]
    model: nn.Module = field(repr=False)


def make_view(
    pipeline: Any, task: str, inputs: Mapping[str, Any], *, told: Told = lambda text: None
) -> View:
    """Predict, and describe how to recompute the prediction in one pass.

    Args:
        pipeline: a pipeline of the task.
        task: name of the task.
        inputs: "text", and further inputs of the task.
        told: called with each generated token.

    Raises:
        ConfigError: the explorer has no view of the task.
        DataError: the input is empty or does not fit the task.
    """
    if task not in VIEWS:
        raise ConfigError(f"the explorer has no view of the task {task}; expected {list(VIEWS)}")
    with evaluating(pipeline.model):
        return VIEWS[task](pipeline, inputs, told)


def look(
    model: nn.Module,
    view: View,
    *,
    name: str,
    changes: Changes = UNCHANGED,
    effects: bool = False,
    told: Told = lambda text: None,
) -> Looked:
    """Record one pass over an input, and, with `effects`, the effect of each head.

    Args:
        model: the model.
        view: the input, as `make_view` returns it.
        name: name of the model.
        changes: changes to the model; the predictions remain those of the unchanged model.
        effects: whether to measure the effect of each head (see `head_effects`).
        told: called with the name of each module whose heads have been measured.
    """
    start, tensors = time.perf_counter(), dict[str, Tensor]()
    with observing(model):
        names, before = first_pass(model, view) if changes else ([], torch.zeros(1, 0))
        with changed(model, changes, names), capture(model, watch(view)) as seen:
            logits = view.logits(1)[0]
        header = {
            "model": _model(model, name),
            "task": {
                "kind": view.kind,
                "inputs": view.inputs,
                "output": view.output,
                "note": view.note,
            },
            "sequences": {
                what: [{"text": text, "special": special} for text, special in tokens]
                for what, tokens in view.sequences.items()
            },
            "attention": [
                describe_attention(i, one, view, tensors)
                for i, one in enumerate(seen.attention.values())
            ],
            "states": list(describe_states(seen, view, tensors)),
            "output": describe_output(view, logits, tensors),
        }
        header |= describe_lens(model, seen, view, logits, tensors)
        header |= {"image": view.image} if view.image else {}
        header |= {"beam": view.beam} if view.beam else {}
        if changes:
            tensors["changes.before"] = before[0]
            pairs = [list(one) for one in changes.ablate]
            header["changes"] = {
                "ablate": pairs,
                "mask": changes.mask,
                "before": "changes.before",
            }
        if effects:
            heads, tensors["ablation.effects"] = head_effects(model, view, told=told)
            header["ablation"] = {"heads": heads, "effects": "ablation.effects"}
    names_of = cast(dict[str, Any], header["output"])["names"]
    shown = {
        int(i) for key in ("output.ids", "lens.ids") if key in tensors for i in _ids(tensors[key])
    }
    names_of |= {str(i): view.name(i) for i in sorted(shown | {one.chosen for one in view.steps})}
    header["made"] = {
        "qkv": version("qkv"),
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start, 3),
    }
    arrays = {key: as_array(key, one) for key, one in tensors.items()}
    return Looked(
        Record(header, arrays), view, [one.layer for one in seen.attention.values()], model
    )


def _model(model: nn.Module, name: str) -> dict[str, Any]:
    entry = ZOO.get(name)
    return {
        "name": name,
        "family": type(getattr(model, "encoder", model)).__name__
        if hasattr(model, "classifier")
        else type(model).__name__,
        "parameters": sum(one.numel() for one in model.parameters()),
        "about": entry.about if entry else "",
        "weak": entry.weak if entry else "",
    }


def _ids(tensor: Tensor) -> list[int]:
    return tensor.unique().tolist()

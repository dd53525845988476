"""Optimization of loaded models for inference."""

from dataclasses import replace
from typing import Any, TypeVar, overload

from torch import nn

from qkv.inference.optimize import Choice
from qkv.inference.optimize import optimize as make_faster
from qkv.tasks.pretrained import Loaded

Model = TypeVar("Model", bound=nn.Module)


@overload
def optimize(model: Loaded, dtype: Choice = "float32") -> Loaded: ...
@overload
def optimize(model: Model, dtype: Choice = "float32") -> Model: ...
def optimize(model: Any, dtype: Choice = "float32") -> Any:
    """Return a copy of a model (a module or a `Loaded`) that is faster at inference on a CPU.

        fast = qkv.optimize(qkv.load("smollm2"), "int8")

    Args:
        model: a module, or a model returned by `load`.
        dtype: how the weights are stored: "float32", "bfloat16", "int8", "int4"; "auto" measures
            for a second and logs its choice. See `qkv.inference.optimize`.

    Raises:
        ConfigError: for an unknown dtype, a model that is not on the CPU or is optimized already,
            or weights that are not finite.
    """
    if isinstance(model, Loaded):
        return replace(model, model=make_faster(model.model, dtype))
    return make_faster(model, dtype)

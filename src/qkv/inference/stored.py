"""Optimized models as named tensors: packed weights, and all other parameters unchanged.

A weight is stored under its name in the model, and its scales under this name with the suffix
`.scales`. Shapes: N rows (outputs), K columns (inputs), G = K / 32 groups.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qkv.blocks.embedding import TokenEmbedding
from qkv.errors import ConfigError, DataError
from qkv.inference.modules import PackedEmbedding, PackedLinear
from qkv.inference.optimize import made_of, rebuild, tables
from qkv.inference.packed import GROUP, WIDEST, Packed, Packing

Model = TypeVar("Model", bound=nn.Module)
SCALES = ".scales"
ALIGNED = 64  # bytes; otherwise, float32 products may differ in the last bit
WHOLE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an optimized model, by the names of the original parameters.

    Raises:
        ConfigError: if the model is not optimized, or is only a submodule of one that is.
    """
    made = made_of(model)
    if made is None:
        raise ConfigError(f"this {type(model).__name__} was not returned by optimize")
    stored = dict[str, Tensor]()
    for name, _ in made.outline.named_parameters():
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if last == "weight" and isinstance(module, PackedLinear | PackedEmbedding):
            stored[name] = module.packed
            if module.scales.numel():
                stored[name + SCALES] = module.scales
        else:
            stored[name] = getattr(module, last).detach()
    return stored


def restore(
    outline: Model,
    dtype: Packing,
    tensors: Mapping[str, Tensor],
    *,
    where: Callable[[str], str] = str,
) -> Model:
    """Build an optimized model from the result of `stored_tensors`; no weights are expanded.

    Args:
        outline: the original model, with parameters on the meta device; modified in place.
        dtype: how the weights are packed.
        tensors: the stored tensors.
        where: returns the name of a tensor for errors, for example with its file.

    Raises:
        DataError: if a tensor is missing, unknown, or does not match the model and dtype.
    """
    expected, packed = _layout(outline, dtype), packable(outline)
    for name, layout in expected.items():
        if name not in tensors:
            raise DataError(
                f"{where(name)} is missing; does config.json belong to these weights, which are "
                f"stored as {dtype}?"
            )
        _check(tensors[name], *layout, where=where(name))
        if name.endswith(SCALES) and not tensors[name].isfinite().all():
            raise DataError(f"{where(name)} has scales that are not finite; is the file damaged?")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise DataError(
            f"{where(unknown[0])} has no place in a {type(outline).__name__} stored as {dtype}; "
            "does config.json belong to these weights?"
        )
    whole = {name: _aligned(tensors[name]) for name in expected if _owner(name) not in packed}
    place(outline, whole)

    def find(name: str) -> Packed:
        scales = tensors[name + SCALES] if name + SCALES in expected else torch.empty(0)
        return Packed(_aligned(tensors[name]), _aligned(scales))

    return rebuild(outline, dtype, find)


def packable(model: nn.Module) -> set[str]:
    """Return the names of the weights that `optimize` packs."""
    kinds = (nn.Linear, TokenEmbedding)
    weights = {id(m.weight) for m in model.modules() if type(m) in kinds}
    return {name for name, p in model.named_parameters() if id(p) in weights}


def place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters with tensors that need no gradient; shared parameters stay shared."""
    parameters = {id(p): name for name, p in model.named_parameters()}
    made = {name: nn.Parameter(x, requires_grad=False) for name, x in tensors.items()}
    for module in model.modules():
        for last, parameter in list(module.named_parameters(recurse=False)):
            if (name := parameters[id(parameter)]) in made:
                setattr(module, last, made[name])


def _owner(name: str) -> str:
    return name.removesuffix(SCALES)


def _layout(model: nn.Module, dtype: Packing) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and the dtype of each stored tensor; a dtype of None means any."""
    expected = dict[str, tuple[tuple[int, ...], Any]]()
    coarse, packed = tables(model), packable(model)
    for name, parameter in model.named_parameters():
        if name not in packed:
            expected[name] = tuple(parameter.shape), None
        elif dtype in WHOLE:
            expected[name] = tuple(parameter.shape), WHOLE[dtype]
        else:
            n, k = parameter.shape
            groups = dtype == "int4" and k % GROUP == 0 and k <= WIDEST
            four = groups and name not in coarse
            expected[name] = ((n, k // 2), torch.uint8) if four else ((n, k), torch.int8)
            shape = (n, 2, k // GROUP) if four else (n, k // GROUP) if groups else (n,)
            expected[name + SCALES] = shape, torch.float16 if groups else torch.float32
    return expected


def _check(tensor: Tensor, shape: tuple[int, ...], dtype: Any, *, where: str) -> None:
    fits = tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
    if tuple(tensor.shape) != shape or not fits:
        raise DataError(
            f"{where} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; expected {shape} "
            f"and {dtype or 'floating-point numbers'}: config.json describes another model, or "
            "another dtype"
        )


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % ALIGNED == 0 else tensor.clone()

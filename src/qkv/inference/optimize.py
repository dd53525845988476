"""Make a model faster for inference: the same interface, packed weights, a step in one call."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.inference.decoder import FastStack, can_decode
from qkv.inference.modules import (
    FastAttention,
    FastFeedForward,
    PackedEmbedding,
    PackedLinear,
)
from qkv.inference.packed import PACKINGS, Packed, Packing, join, pack

Model = TypeVar("Model", bound=nn.Module)
Choice = Literal["float32", "bfloat16", "int8", "int4", "auto"]
PackedBy = Callable[[str], Packed]  # the packed weight by the name of the parameter
LOG = logging.getLogger(__name__)
SLACK = 1.1  # a coarser dtype must be faster by this
BATCH = 64  # rows with which an encoder is measured


def optimize(model: Model, dtype: Choice = "float32") -> Model:
    """Return a copy of a model that is faster at inference; the model is unchanged.

    Linear layers and token embeddings are packed; those of queries, keys and values are stored
    together, as are those of gate and up. Stacks of causal blocks compute a step of up to 16 rows
    in one call. The copy shares all other parameters with the model, and cannot be trained.

    Args:
        model: a model on the CPU; if it is already stored as dtype, or optimized and dtype is auto,
            it is returned unchanged.
        dtype: how weights are stored. float32: as they are. bfloat16: 8 bits of precision. int8:
            round(127 w / max|w|) of each row. int4: 16 levels in groups of 32; embeddings, and
            layers whose width 32 does not divide, are int8. auto: the fastest of float32,
            bfloat16 and int8 on this processor, measured for about a second and logged.

    Raises:
        ConfigError: for an unknown dtype, a model on another device or optimized for another dtype,
            or weights that are not finite.
    """
    check_dtype(dtype)
    if (made := made_of(model)) is not None and dtype in ("auto", made.dtype):
        return model
    if is_optimized(model):
        raise ConfigError(
            f"dtype = {dtype!r}, but this model is stored as {made.dtype if made else 'another'} "
            "already; optimize the one that it was made from, which has all the digits"
        )
    for name, tensor in model.named_parameters():
        if tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise ConfigError(
                f"{name} is {tensor.dtype} on {tensor.device}; expected a model of floating-point "
                "numbers on the CPU: the kernel is for processors"
            )
    shared: dict[int, Any] = {id(b): b for b in model.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    packing = fastest(model) if dtype == "auto" else dtype
    weights, coarse = dict(model.named_parameters()), tables(model)

    def packed(name: str) -> Packed:
        return pack_weight(weights[name], packing, is_table=name in coarse)

    return rebuild(copy.deepcopy(model, shared), packing, packed)


def rebuild(model: Model, dtype: Packing, packed: PackedBy) -> Model:
    """Replace a model's layers with packed ones, in place.

    Args:
        model: its weights of linear layers and token embeddings may be on the meta device.
        dtype: how they are packed.
        packed: returns the packed weight by the name of a parameter.
    """
    on_meta = {id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()}
    made = MadeOf(dtype, copy.deepcopy(model, {**on_meta, **{id(b): b for b in model.buffers()}}))
    optimized: Any = _Optimizer(model.eval(), packed).run()
    optimized.made_of = made
    return optimized


@dataclass(frozen=True)
class MadeOf:
    """The origin of an optimized model.

    Args:
        dtype: how its weights are stored.
        outline: the original model, with its parameters on the meta device.
    """

    dtype: Packing
    outline: nn.Module


def made_of(model: nn.Module) -> MadeOf | None:
    """Return the origin of an optimized model; None for other models and for submodules."""
    return getattr(model, "made_of", None)


def is_optimized(model: nn.Module) -> bool:
    """Return whether a model has packed weights."""
    return any(isinstance(module, PackedLinear | PackedEmbedding) for module in model.modules())


def check_dtype(dtype: str) -> None:
    """Raise a ConfigError unless weights can be stored with this dtype."""
    if dtype != "auto" and dtype not in PACKINGS:
        raise ConfigError(f"dtype = {dtype!r}; expected one of {', '.join(PACKINGS)}, auto")


def tables(model: nn.Module) -> set[str]:
    """Return the names of the token embeddings."""
    tables = {id(m.weight) for m in model.modules() if type(m) is TokenEmbedding}
    return {name for name, p in model.named_parameters() if id(p) in tables}


def pack_weight(weight: Tensor, packing: Packing, *, is_table: bool) -> Packed:
    """Pack a matrix; int4 is too coarse for token embeddings, and output layers tied to them."""
    if packing == "int4":
        return pack(weight, "int8" if is_table else "int4", groups=True)
    return pack(weight, packing)


def fastest(model: nn.Module) -> Packing:
    """Return the dtype with the fastest products on this processor, and log the measurements.

    Decoders are measured with products of 1 row, other models with products of 64 rows.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    rows = 1 if any(type(m) is Stack and _is_causal(m) for m in model.modules()) else BATCH
    shapes = sorted({tuple(layer.weight.shape) for layer in layers})
    seconds = {dtype: _seconds(shapes, rows, dtype) for dtype in ("float32", "bfloat16", "int8")}
    chosen: Packing = "float32"
    for dtype in ("bfloat16", "int8"):
        if seconds[dtype] * SLACK < seconds[chosen]:
            chosen = dtype
    measured = ", ".join(f"{dtype} {1e3 * each:.2f} ms" for dtype, each in seconds.items())
    LOG.warning("dtype auto: %s (products of %d rows: %s)", chosen, rows, measured)
    return chosen


def _is_causal(stack: Stack) -> bool:
    return any(getattr(m, "causal", False) for m in stack.modules())


def _seconds(shapes: list[tuple[int, ...]], rows: int, dtype: Packing) -> float:
    """Return the total time of one product per shape, each the fastest of several runs."""
    total = 0.0
    own = torch.Generator().manual_seed(0)
    for n, k in shapes:
        weight, x = (torch.randn(size, k, generator=own) for size in (n, rows))
        layer = PackedLinear(pack(weight, dtype))
        with torch.inference_mode():
            layer(x)
            times, end = list[float](), time.perf_counter() + 0.05
            while len(times) < 3 or time.perf_counter() < end:
                begun = time.perf_counter()
                layer(x)
                times.append(time.perf_counter() - begun)
        total += min(times)
    return total


class _Optimizer:
    """Replaces the modules of a copy."""

    def __init__(self, model: Any, packed: PackedBy):
        self.model, self.packed = model, packed
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.packed_before = dict[str, Packed]()

    def run(self) -> Any:
        fused = dict[nn.Module, PackedLinear]()
        for module in list(self.model.modules()):
            for name, child in list(module.named_children()):
                if type(child) is MultiHeadAttention:
                    setattr(module, name, FastAttention(child))
                elif type(child) is FeedForward and _all_linear(child.up, child.down):
                    setattr(module, name, FastFeedForward(child))
        modules = list(self.model.modules())
        for module in modules:
            if isinstance(module, MultiHeadAttention) and _all_linear(
                module.query, module.key, module.value
            ):
                fused[module] = self.fuse(module, "query", "key", "value")
                if isinstance(module, FastAttention):
                    module.join_projections(fused[module])
            elif isinstance(module, FeedForward) and _all_linear(module.gate, module.up):
                fused[module] = self.fuse(module, "gate", "up")
        for module in modules:
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, self.linear(child))
                elif type(child) is TokenEmbedding:
                    setattr(module, name, PackedEmbedding(self.pack(child.weight), child.scale))
        for module in modules:
            for name, child in list(module.named_children()):
                if type(child) is Stack and can_decode(child):
                    setattr(module, name, FastStack(child, fused))
        return self.model

    def fuse(self, module: nn.Module, *names: str) -> PackedLinear:
        """Pack layers with the same input as one layer, of which each becomes a slice."""
        layers = [cast(nn.Linear, module.get_submodule(name)) for name in names]
        parts = [self.packed(self.names[id(layer.weight)]) for layer in layers]
        whole = PackedLinear(join(parts), _joined_bias(layers))
        first = 0
        for name, layer in zip(names, layers, strict=True):
            part = slice(first, first := first + layer.out_features)
            bias = None if layer.bias is None else whole.get_buffer("bias")[part]
            setattr(module, name, PackedLinear(whole.matrix[part], bias))
        return whole

    def linear(self, layer: nn.Linear) -> PackedLinear:
        return PackedLinear(self.pack(layer.weight), layer.bias)

    def pack(self, weight: Tensor) -> Packed:
        """Pack a parameter; one that is used twice, such as a tied output layer, is packed once."""
        name = self.names[id(weight)]
        if name not in self.packed_before:
            self.packed_before[name] = self.packed(name)
        return self.packed_before[name]


def _all_linear(*layers: nn.Module | None) -> bool:
    return all(type(layer) is nn.Linear for layer in layers)


def _joined_bias(layers: list[nn.Linear]) -> Tensor | None:
    """Return the concatenated biases, with zeros for a layer without one."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if not biases:
        return None
    parts = [
        biases[0].new_zeros(layer.out_features) if layer.bias is None else layer.bias
        for layer in layers
    ]
    return torch.cat(parts).detach()

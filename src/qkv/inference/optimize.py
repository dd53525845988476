"""Make a model faster for inference: the same protocol, packed weights, a step in one call."""

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.inference.decoder import FastStack, can_decode
from qkv.inference.modules import PackedEmbedding, PackedLinear
from qkv.inference.packed import PACKINGS, Packed, Packing, pack

Model = TypeVar("Model", bound=nn.Module)


def optimize(model: Model, dtype: Packing = "float32") -> Model:
    """Return a copy of a model that is faster at inference; the model stays as it is.

    Linear layers and token embeddings are packed; those of queries, keys and values lie together,
    as do those of a gate and its input. Stacks of causal blocks compute a step of up to 16 rows
    in one call. The copy shares all other parameters with the model, and cannot be trained.

    Args:
        model: a model on the CPU.
        dtype: how weights are stored. float32: as they are. bfloat16: 8 bits of precision. int8:
            round(127 w / max|w|) of each row. int4: 16 levels in groups of 32; embeddings, and
            layers whose width 32 does not divide, are int8.

    Raises:
        ConfigError: for an unknown dtype, a model on another device or already optimized, or
            weights that are not finite.
    """
    if dtype not in PACKINGS:
        raise ConfigError(f"dtype = {dtype!r}; expected one of {', '.join(PACKINGS)}")
    for name, tensor in model.named_parameters():
        if tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise ConfigError(
                f"{name} is {tensor.dtype} on {tensor.device}; expected a model of floating-point "
                "numbers on the CPU: the kernel is for processors"
            )
    if any(isinstance(module, (PackedLinear, PackedEmbedding)) for module in model.modules()):
        raise ConfigError("this model is optimized already; optimize the one it was made from")
    shared: dict[int, Any] = {id(b): b for b in model.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return _Optimizer(copy.deepcopy(model, shared).eval(), dtype).run()


class _Optimizer:
    """Replaces the modules of a copy."""

    def __init__(self, model: Any, dtype: Packing):
        self.model = model
        self.dtype: Packing = dtype
        self.packed = dict[Tensor, Packed]()

    def run(self) -> Any:
        fused = dict[nn.Module, PackedLinear]()
        modules = list(self.model.modules())
        for module in modules:
            if isinstance(module, MultiHeadAttention) and _all_linear(
                module.query, module.key, module.value
            ):
                fused[module] = self.fuse(module, "query", "key", "value")
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
        """Pack layers that read the same input as one; each becomes a part of it."""
        layers = [cast(nn.Linear, module.get_submodule(name)) for name in names]
        weight = torch.cat([layer.weight for layer in layers])
        whole = PackedLinear(self.packing(weight), _joined_bias(layers))
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
        if weight not in self.packed:
            self.packed[weight] = self.packing(weight)
        return self.packed[weight]

    def packing(self, weight: Tensor) -> Packed:
        """Pack a matrix; int4 is too coarse for what a token is read from and predicted by."""
        modules = self.model.modules()
        is_table = any(type(m) is TokenEmbedding and m.weight is weight for m in modules)
        if self.dtype == "int4":
            return pack(weight, "int8" if is_table else "int4", groups=True)
        return pack(weight, self.dtype)


def _all_linear(*layers: nn.Module | None) -> bool:
    return all(type(layer) is nn.Linear for layer in layers)


def _joined_bias(layers: list[nn.Linear]) -> Tensor | None:
    """Return the biases one after another, zeros for a layer without one."""
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        for layer in layers
    ]
    return torch.cat(parts).detach()

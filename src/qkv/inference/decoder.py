"""A stack of decoder blocks whose step is one call of the compiled kernel.

Shapes: B batch, n new tokens, K keys so far, D d_model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.blocks.block import Block, LayerCache, Residual
from qkv.blocks.norms import LayerNorm, RMSNorm
from qkv.blocks.positions import Rotary
from qkv.blocks.stack import Stack
from qkv.inference.build import kernel
from qkv.inference.modules import MOST_ROWS, FastAttention, FastFeedForward, PackedLinear
from qkv.inference.products import IN_KERNEL

GATES = {"geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu"}
EMPTY = torch.empty(0)


class FastStack(Stack):
    """A stack that processes a few new tokens with the kernel, and all else like `Stack`.

    Args:
        stack: a stack whose linear layers are packed.
        fused: joint projections of queries, keys and values, or of gate and up, by their module.
    """

    def __init__(self, stack: Stack, fused: "dict[nn.Module, PackedLinear]"):
        nn.Module.__init__(self)
        self.blocks, self.norm, self.recompute = stack.blocks, stack.norm, False
        self._rotary = _rotary(stack)
        self._weights = [_weights(block, fused) for block in stack.blocks]
        self._shape, self._eps = _shape(stack), _norms(stack)[0].eps
        self._crosses = stack.blocks[0].cross_attention is not None
        self._turned = EMPTY
        self._watchers = [_watchers(block) for block in stack.blocks]

    def forward(
        self,
        x: Float[Tensor, "B n D"],
        memory: Float[Tensor, "memories K D"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        caches: Sequence[LayerCache | None] | None = None,
    ) -> Float[Tensor, "B n D"]:
        """Run the blocks in order; see `Stack`. A recorded or hooked block runs separately."""
        own = [cache for cache in caches or () if cache is not None]
        if len(own) < len(self.blocks) or not self._may_decode(x, positions, own):
            return super().forward(
                x,
                memory,
                mask=mask,
                memory_mask=memory_mask,
                positions=positions,
                caches=caches,
            )
        masks = [EMPTY if m is None else m.contiguous() for m in (mask, memory_mask)]
        inputs = self._turns(positions), *masks
        first = 0
        for i in (*filter(self._is_watched, range(len(self.blocks))), len(self.blocks)):
            if first < i or i == len(self.blocks):
                x = self._decode(x, inputs, first, i, own)
            if i < len(self.blocks):
                x = self.blocks[i](
                    x,
                    memory,
                    mask=mask,
                    memory_mask=memory_mask,
                    positions=positions,
                    cache=own[i],
                )
            first = i + 1
        return x

    def _may_decode(
        self, x: Tensor, positions: Tensor | None, caches: Sequence[LayerCache]
    ) -> bool:
        """Return whether there are few rows without gradients, and all caches are filled."""
        few = 0 < x.shape[0] * x.shape[1] <= MOST_ROWS and x.dtype == torch.float32
        placed = positions is not None or self._rotary is None
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if not (few and placed and not differentiated and kernel()):
            return False
        return not any(
            cache.self_attention.empty or (self._crosses and cache.cross_attention.filled is None)
            for cache in caches
        )

    def _is_watched(self, layer: int) -> bool:
        """Return whether a block is recorded or has hooks."""
        hooks, recorded = self._watchers[layer]
        return any(hooks) or any(module.recorder is not None for module in recorded)

    def _decode(
        self,
        x: Float[Tensor, "B n D"],
        inputs: tuple[Tensor, ...],
        first: int,
        end: int,
        caches: Sequence[LayerCache],
    ) -> Float[Tensor, "B n D"]:
        """Run the blocks from `first` to `end` with the kernel; the last norm follows the last."""
        slots, weights = list[Tensor](), list[Tensor]()
        past = caches[first].self_attention.length if first < end else 0
        for layer in range(first, end):
            slots += caches[layer].self_attention.reserve(x.shape[1]) or ()
            slots += caches[layer].cross_attention.filled or ()
            weights += self._weights[layer]
        closes = end == len(self.blocks) and self.norm is not None
        if closes:
            weights += _norm_weights(self.norm)
        shape = [end - first, *self._shape, closes, past]
        return torch.ops.qkv.decode(x.contiguous(), *inputs, weights, slots, shape, self._eps)

    def _turns(self, positions: Int[Tensor, "*B n"] | None) -> Float[Tensor, "*B n width"]:
        """Return the cosines and sines of the positions, which are the rotated vector (1, 0)."""
        if self._rotary is None or positions is None:
            return EMPTY
        if self._rotary.scaling is not None:
            return unit_turns(self._rotary, positions)
        if (last := int(positions.max())) >= len(self._turned):
            size = max(64, 2 * last)
            self._turned = unit_turns(self._rotary, torch.arange(size))
        return self._turned[positions]


def unit_turns(rotary: Rotary, positions: Int[Tensor, "*B n"]) -> Float[Tensor, "*B n width"]:
    """Rotate the vector (1, 0) of every pair of coordinates, which gives (cos, sin)."""
    unit = torch.zeros(rotary.width)
    unit[_first_of_pairs(rotary)] = 1
    turn = Rotary(rotary.width, base=rotary.base, layout=rotary.layout, scaling=rotary.scaling)
    vectors = unit.expand(*positions.shape, -1)
    if positions.ndim == 1:
        return turn(vectors[None, None], positions)[0, 0]
    return turn(vectors[:, None], positions)[:, 0]


def _first_of_pairs(rotary: Rotary) -> slice:
    interleaved = rotary.layout == "interleaved"
    return slice(0, None, 2) if interleaved else slice(0, rotary.width // 2)


def can_decode(stack: Stack) -> bool:
    """Return whether the kernel supports the blocks of this stack."""
    blocks = list(stack.blocks)
    if not blocks or any(type(block) is not Block for block in blocks):
        return False
    return (
        all(_is_plain(block) for block in blocks)
        and len({_signature(block) for block in blocks}) == 1
        and all(type(norm) in (LayerNorm, RMSNorm) for norm in _norms(stack))
        and len({(type(norm), getattr(norm, "eps", None)) for norm in _norms(stack)}) == 1
    )


def _is_plain(block: Any) -> bool:
    own, cross = block.self_attention, block.cross_attention
    return (
        type(own) is FastAttention
        and own.causal
        and own.position_bias is None
        and (own.rotary is None or type(own.rotary) is Rotary)
        and (cross is None or _serves(cross, own))
        and type(block.feed_forward) is FastFeedForward
        and all(type(part) is Residual for part in _residuals(block))
        and all(isinstance(layer, PackedLinear) for layer in _layers(block))
    )


def _watchers(block: nn.Module) -> tuple[list[dict[int, Any]], list[Any]]:
    """Return the dictionaries of the hooks of all modules, and the modules that can be recorded."""
    modules = list(block.modules())
    hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    return hooks, [m for m in modules if hasattr(m, "recorder")]


def _serves(cross: Any, own: Any) -> bool:
    """Return whether cross-attention has the same shape as self-attention."""
    plain = type(cross) is FastAttention and cross.position_bias is None
    return plain and not cross.causal and cross.rotary is None and _heads(cross) == _heads(own)


def _signature(block: Any) -> tuple[Any, ...]:
    """Return the settings that the kernel requires to be the same in all blocks."""
    own, rotary, cross = block.self_attention, block.self_attention.rotary, block.cross_attention
    turns = () if rotary is None else (rotary.base, rotary.layout, rotary.width, rotary.scaling)
    first = block.self_attention_residual.norm_first
    return _heads(own), cross is None, block.feed_forward.kind, first, turns


def _heads(attention: Any) -> tuple[int, ...]:
    return attention.n_heads, attention.d_head, attention.key.out_features


def _residuals(block: Any) -> list[Any]:
    names = ("self_attention_residual", "cross_attention_residual", "feed_forward_residual")
    return [getattr(block, name) for name in names if hasattr(block, name)]


def _layers(block: Any) -> list[nn.Module]:
    own, cross, feed_forward = block.self_attention, block.cross_attention, block.feed_forward
    layers = [own.query, own.key, own.value, own.output, feed_forward.up, feed_forward.down]
    layers += [] if cross is None else [cross.query, cross.key, cross.value, cross.output]
    return layers if feed_forward.gate is None else [*layers, feed_forward.gate]


def _norms(stack: Stack) -> list[Any]:
    norms = [part.norm for block in stack.blocks for part in _residuals(block)]
    return norms if stack.norm is None else [*norms, stack.norm]


def _rotary(stack: Stack) -> Rotary | None:
    block: Any = stack.blocks[0]
    return block.self_attention.rotary


def _shape(stack: Stack) -> list[int]:
    """Return the sizes and flags that kernel.cpp reads after the number of layers, in its order."""
    block: Any = stack.blocks[0]
    own, feed_forward = block.self_attention, block.feed_forward
    kind, rotary = feed_forward.kind, own.rotary
    return [
        own.n_heads,
        own.key.out_features // own.d_head,
        own.d_head,
        IN_KERNEL[GATES.get(kind) or kind],
        kind in GATES,
        isinstance(block.self_attention_residual.norm, RMSNorm),
        block.self_attention_residual.norm_first,
        0 if rotary is None else rotary.width,
        rotary is not None and rotary.layout == "interleaved",
        block.cross_attention is not None,
    ]


def _weights(block: Any, fused: "dict[nn.Module, PackedLinear]") -> list[Tensor]:
    """Return the tensors of a block that kernel.cpp reads, in its order; an absent one is empty."""
    feed_forward, cross = block.feed_forward, block.cross_attention
    weights = _norm_weights(block.self_attention_residual.norm)
    weights += _linear_weights(fused[block.self_attention])
    weights += _linear_weights(block.self_attention.output)
    if cross is not None:
        weights += _norm_weights(block.cross_attention_residual.norm)
        weights += _linear_weights(cross.query) + _linear_weights(cross.output)
    weights += _norm_weights(block.feed_forward_residual.norm)
    weights += _linear_weights(
        feed_forward.up if feed_forward.gate is None else fused[feed_forward]
    )
    return weights + _linear_weights(feed_forward.down)


def _norm_weights(norm: Any) -> list[Tensor]:
    bias = getattr(norm, "bias", None)
    return [norm.weight.detach(), EMPTY if bias is None else bias.detach()]


def _linear_weights(layer: PackedLinear) -> list[Tensor]:
    return [
        layer.packed,
        layer.scales,
        EMPTY if layer.bias is None else layer.get_buffer("bias"),
    ]

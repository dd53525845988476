"""Layers with packed weights, which compute the same as layers with the expanded weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.masks import check_tokens
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.embedding import unknown_token
from qkv.blocks.feed_forward import FeedForward
from qkv.errors import ConfigError, ShapeError
from qkv.inference.build import kernel
from qkv.inference.packed import Packed
from qkv.inference.products import (
    IN_KERNEL,
    FloatMatrix,
    Int8Matrix,
    activate,
    fast_bfloat16,
    fast_float32,
    fast_int8,
)

NOTHING = torch.empty(0)
# The kernel is faster for at most this many rows. For more, computing takes longer than reading the
# weights, so another product pays; for integers in groups, expanding the weights does.
MOST_ROWS = 16
MOST_ROWS_IN_GROUPS = 64
MOST_QUERIES = 48  # the kernel's attention is faster for at most this many queries


class _Frozen(nn.Module):
    """A module whose buffers keep their dtype and device."""

    packed: Tensor
    scales: Tensor

    def hold(self, matrix: Packed) -> None:
        """Register the matrix as buffers."""
        self.register_buffer("packed", matrix.weight)
        self.register_buffer("scales", matrix.scales)

    @property
    def matrix(self) -> Packed:
        """The packed weights."""
        return Packed(self.packed, self.scales)

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The expanded weights, computed at each access."""
        if self.packed.dtype in (torch.int8, torch.uint8) and kernel():
            return torch.ops.qkv.expand(self.packed, self.scales)
        return self.matrix.expand()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for tensor in (self.packed, self.scales):
            moved = fn(tensor[:0])
            if (moved.dtype, moved.device) != (tensor.dtype, tensor.device):
                raise ConfigError(
                    f"an optimized model cannot be converted to {moved.dtype} on {moved.device}: "
                    "its weights are packed; convert the model, and optimize it then"
                )
        return self


class PackedLinear(_Frozen):
    """A linear layer for inference, computed by the compiled kernel if x has few rows."""

    def __init__(self, matrix: Packed, bias: Float[Tensor, " N"] | None = None):
        super().__init__()
        self.hold(matrix)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._laid_out: Int8Matrix | FloatMatrix | None = None

    def forward(
        self, x: Float[Tensor, "*any K"], activation: str = "none"
    ) -> Float[Tensor, "*any N"]:
        """Project the last axis, and apply an activation of a feed-forward network.

        Raises:
            ShapeError: if it is not as long as the rows of the weight.
        """
        if x.shape[-1] != self.in_features:
            raise ShapeError(
                f"x has shape {tuple(x.shape)}, but the packed weight has {self.out_features} rows "
                f"of {self.in_features} numbers; expected (..., {self.in_features})"
            )
        bias = self.get_buffer("bias") if self.bias is not None else None
        rows = x.numel() // max(1, x.shape[-1])
        plain = x.dtype != torch.float32 or (torch.is_grad_enabled() and x.requires_grad)
        if plain or rows == 0:
            return activate(F.linear(x, self.weight.to(x.dtype), bias), activation)
        if rows <= (MOST_ROWS_IN_GROUPS if self.scales.ndim > 1 else MOST_ROWS) and kernel():
            return self._by_kernel(x.contiguous(), bias, activation)
        if self._laid_out is None:  # at the first batch: it takes as much memory again
            self._laid_out = _lay_out(self.matrix)
        if isinstance(self._laid_out, FloatMatrix):
            return self._laid_out(x, bias, activation)
        if isinstance(self._laid_out, Int8Matrix):
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            y, extreme = self._laid_out(flat, bias, activation)
            if len(extreme):
                y[extreme] = self._exactly(flat[extreme], bias, activation)
            return y.view(*x.shape[:-1], -1)
        return activate(F.linear(x, self.weight, bias), activation)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the weights laid out for oneDNN, which cannot be copied or pickled."""
        return self.__dict__ | {"_laid_out": None}

    def _exactly(
        self, x: Float[Tensor, "rows K"], bias: Tensor | None, activation: str
    ) -> Float[Tensor, "rows N"]:
        if kernel():
            return self._by_kernel(x, bias, activation)
        return activate(F.linear(x, self.weight, bias), activation)

    def _by_kernel(self, x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        bias = NOTHING if bias is None else bias
        return torch.ops.qkv.linear(x, self.packed, self.scales, bias, IN_KERNEL[activation])

    @property
    def in_features(self) -> int:
        """Number of inputs K."""
        return self.packed.shape[1] * (2 if self.packed.dtype == torch.uint8 else 1)

    @property
    def out_features(self) -> int:
        """Number of outputs N."""
        return len(self.packed)

    def extra_repr(self) -> str:
        """Return the size and the storage format."""
        return f"{tuple(self.packed.shape)}, {self.packed.dtype}, bias={self.bias is not None}"


def _lay_out(matrix: Packed) -> Int8Matrix | FloatMatrix | None:
    """Lay a matrix out for oneDNN, if that is faster than PyTorch's product."""
    dtype = matrix.weight.dtype
    if dtype == torch.int8 and matrix.scales.ndim == 1 and fast_int8():
        return Int8Matrix(matrix.weight, matrix.scales)
    faster = {torch.float32: fast_float32, torch.bfloat16: fast_bfloat16}
    return FloatMatrix(matrix.weight) if dtype in faster and faster[dtype]() else None


class PackedEmbedding(_Frozen):
    """A token embedding that expands only the requested rows."""

    def __init__(self, matrix: Packed, scale: float):
        super().__init__()
        self.hold(matrix)
        self.scale = scale

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length D"]:
        """Look up each token."""
        check_tokens(tokens)
        if tokens.numel() and not (tokens.min() >= 0 and tokens.max() < len(self.packed)):
            raise unknown_token(tokens, len(self.packed))
        vectors = self.matrix[tokens.flatten()].expand().unflatten(0, tokens.shape)
        return vectors if self.scale == 1 else vectors * self.scale


class FastFeedForward(FeedForward):
    """A feed-forward network whose activation is fused into the first product."""

    def __init__(self, feed_forward: FeedForward):
        nn.Module.__init__(self)
        self.__dict__.update(feed_forward.__dict__)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Project up with the activation, project down."""
        if self.gate is not None or self.training or is_hooked(self.up):
            return super().forward(x)
        return self.down(self.up(x, self.kind))


class FastAttention(MultiHeadAttention):
    """Attention with the same submodules; the kernel computes few queries that see all keys.

    In self-attention over many tokens, one product computes queries, keys and values.
    """

    def __init__(self, attention: MultiHeadAttention):
        nn.Module.__init__(self)
        self.__dict__.update(attention.__dict__)
        self._together: tuple[PackedLinear, ...] = ()

    def join_projections(self, together: PackedLinear) -> None:
        """Set the joint projection, which shares memory with the three and is not a submodule."""
        self._together = (together,)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "memories K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention`."""
        if (
            not self._together
            or any(one is not None for one in (memory, cache, self.recorder, self.rotary))
            or is_hooked(self.query, self.key, self.value)
        ):
            options: Any = {"mask": mask, "positions": positions, "cache": cache}
            return super().forward(x, memory, **options)
        heads = self._split(self._together[0](x))  # (B, H + 2 G, L, D)
        groups = (heads.shape[1] - self.n_heads) // 2
        queries, keys, values = heads.split((self.n_heads, groups, groups), 1)
        return self.join(self.attend(queries, keys, values, mask), x)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "B H Q D"]:
        """Compute the weighted sum of the values."""
        tensors = (queries, keys, values)
        if (
            (queries.shape[2] == 1 or (not self.causal and queries.shape[2] <= MOST_QUERIES))
            and self.position_bias is None
            and all(x.dtype == torch.float32 and x.stride(-1) == 1 for x in tensors)
            and keys.stride() == values.stride()
            and (mask is None or mask.shape == (len(queries), 1, 1, keys.shape[2]))
            and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
            and kernel()
        ):
            seen = NOTHING if mask is None else mask.contiguous()
            rows = _as_rows(queries.transpose(1, 2))  # (B, Q, H, D)
            return torch.ops.qkv.attend(rows, keys, values, seen).transpose(1, 2)
        return super().attend(queries, keys, values, mask)


def is_hooked(*modules: nn.Module) -> bool:
    """Return whether one of the modules has hooks."""
    return any(one._forward_hooks or one._forward_pre_hooks for one in modules)


def _as_rows(x: Float[Tensor, "B L H D"]) -> Float[Tensor, "B L H D"]:
    """Return x in the kernel's layout: a token's heads are contiguous, tokens evenly spaced."""
    step, length = x.stride(1), x.shape[1]
    expected = (step * length, step, x.shape[3], 1)
    return x if x.stride() == expected else x.contiguous()

"""A Transformer block: sublayers with residual connections.

Shapes: B batch, Q queries (the block's own tokens), K keys (the memory's tokens), D d_model.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import KeyValueCache, MemoryCache, SelfAttentionCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import make_norm
from qkv.blocks.positions import Rotary
from qkv.errors import ShapeError


class Residual(nn.Module):
    """A residual connection with its norm, the only module that knows their order.

    Post-norm: norm(x + dropout(f(x))) (Vaswani et al. 2017, section 3.1 and 5.4).
    Pre-norm: x + dropout(f(norm(x))) (Xiong et al. 2020, table 1).
    """

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm_first = config.norm_first
        self.norm = make_norm(config.norm, config.d_model, eps=config.norm_eps, bias=config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B Q D"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B Q D"]:
        """Apply the sublayer f with norm, dropout and residual."""
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class LayerCache:
    """The caches of one block: self-attention's grows, cross-attention's is filled once.

    Args:
        self_attention: an empty cache of its mechanism; None means one of keys and values.
    """

    def __init__(self, self_attention: SelfAttentionCache | None = None) -> None:
        # Each mechanism, and the kernel of few rows, knows its own kind of cache.
        self.self_attention: Any = self_attention or KeyValueCache()
        self.cross_attention = MemoryCache()

    def reorder(
        self,
        rows: Int[Tensor, " rows"],
        memories: Int[Tensor, " memories"] | None = None,
        sharing: int = 1,
    ) -> None:
        """Keep these rows of the batch, in this order.

        Args:
            rows: indices of the rows.
            memories: indices of the memories that they attend to; None: each row has its own.
            sharing: number of rows of each memory.
        """
        self.self_attention.reorder(rows)
        self.cross_attention.reorder(rows if memories is None else memories)
        self.cross_attention.sharing = sharing

    def rewind(self, length: int) -> None:
        """Discard everything after the first `length` tokens."""
        self.self_attention.rewind(length)

    def forget(self, n: int) -> None:
        """Drop the first n tokens, which are padding in every row; the next copy frees them."""
        self.self_attention.forget(n)

    def join(self, other: "LayerCache", rows: tuple[int, int]) -> None:
        """Add the rows of another cache of this block below these."""
        self.self_attention.join(other.self_attention, rows)
        self.cross_attention.join(other.cross_attention, rows)


def make_attention(config: BlockConfig, *, to_memory: bool = False) -> MultiHeadAttention:
    """Build the attention for a config; cross-attention has no positions and is not causal."""
    rotary = None
    if config.rotary_base is not None and not to_memory:
        d_head = config.d_head or config.d_model // config.n_heads
        rotary = Rotary(d_head, base=config.rotary_base)
    return MultiHeadAttention(
        config.d_model,
        config.n_heads,
        n_kv_heads=config.n_kv_heads,
        d_head=config.d_head,
        bias=config.bias,
        qkv_bias=config.qkv_bias,
        causal=config.causal and not to_memory,
        dropout=config.attention_dropout,
        rotary=rotary,
    )


class Block(nn.Module):
    """Self-attention and feed-forward; a decoder's is causal, with cross-attention in between.

    Vaswani et al. 2017, figure 1. To use another mechanism, pass a module built for this config.

    Args:
        config: the block's shape and kinds.
        self_attention: replaces multi-head self-attention; called as `(x, mask=, positions=,
            cache=)`.
        cross_attention: replaces multi-head cross-attention; called as `(x, memory, mask=,
            cache=)`.
        feed_forward: replaces the feed-forward network.
    """

    def __init__(
        self,
        config: BlockConfig,
        *,
        self_attention: nn.Module | None = None,
        cross_attention: nn.Module | None = None,
        feed_forward: nn.Module | None = None,
    ):
        super().__init__()
        self.self_attention = self_attention or make_attention(config)
        self.self_attention_residual = Residual(config)
        self.cross_attention = None
        if config.cross_attention:
            self.cross_attention = cross_attention or make_attention(config, to_memory=True)
            self.cross_attention_residual = Residual(config)
        self.feed_forward = feed_forward or FeedForward(
            config.d_model, config.d_ff, kind=config.feed_forward, bias=config.bias
        )
        self.feed_forward_residual = Residual(config)

    def new_cache(self) -> LayerCache:
        """Return empty caches for decoding with this block's mechanisms."""
        make = getattr(self.self_attention, "new_cache", KeyValueCache)
        return LayerCache(make())

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        memory: Float[Tensor, "memories K D"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Run the sublayers in order.

        Args:
            x: the tokens.
            memory: the encoder's output, for a block with cross-attention: (B, K, D), or with a
                cache that is filled one row for several of x.
            mask: True = may attend, broadcastable to (B, H, Q, Q + past).
            memory_mask: True = may attend, broadcastable to (B, H, Q, K).
            positions: positions of x, (Q,) or (B, Q).
            cache: keys and values of earlier calls.

        Raises:
            ShapeError: if a memory is missing, or passed to a block without cross-attention.
        """
        if self.cross_attention is None and memory is not None:
            raise ShapeError("a memory was passed to a block without cross-attention")
        if self.cross_attention is not None and memory is None and cache is None:
            raise ShapeError(
                "a block with cross-attention was called without a memory to attend to "
                "(the encoder's output)"
            )
        own, cross = (cache.self_attention, cache.cross_attention) if cache else (None, None)
        x = self.self_attention_residual(
            x, lambda y: self.self_attention(y, mask=mask, positions=positions, cache=own)
        )
        if self.cross_attention is not None:
            attend = self.cross_attention
            x = self.cross_attention_residual(
                x, lambda y: attend(y, memory, mask=memory_mask, cache=cross)
            )
        return self.feed_forward_residual(x, self.feed_forward)

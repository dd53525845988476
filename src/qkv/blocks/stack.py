"""A stack of N blocks, with a final norm if the blocks are pre-norm.

Shapes: B batch, Q queries (the stack's own tokens), K keys (the memory's tokens), D d_model.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qkv.blocks.block import Block, LayerCache
from qkv.blocks.config import BlockConfig
from qkv.blocks.norms import make_norm


class Stack(nn.Module):
    """An encoder or decoder without its embeddings (Vaswani et al. 2017, section 3.1).

    Args:
        config: configuration of every block.
        n_layers: number of blocks.
        make_block: builds block i, if blocks differ or use their own mechanism.
    """

    def __init__(
        self,
        config: BlockConfig,
        n_layers: int,
        *,
        make_block: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        make_block = make_block or (lambda i: Block(config))
        self.blocks = nn.ModuleList(make_block(i) for i in range(n_layers))
        # Set to train with little memory: the backward pass then recomputes the blocks.
        self.recompute = False
        # Pre-norm blocks add to a residual stream that is never normalized on the way.
        self.norm = None
        if config.norm_first:
            self.norm = make_norm(
                config.norm, config.d_model, eps=config.norm_eps, bias=config.bias
            )

    def new_caches(self) -> list[LayerCache]:
        """Return empty caches for decoding, one per block, as its mechanism needs them."""
        return [getattr(block, "new_cache", LayerCache)() for block in self.blocks]

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        memory: Float[Tensor, "memories K D"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        caches: Sequence[LayerCache | None] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Run the blocks in order; see `Block`, with one cache per block, or None for it."""
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            run = partial(checkpoint, block, use_reentrant=False) if recompute else block
            x = run(
                x,
                memory,
                mask=mask,
                memory_mask=memory_mask,
                positions=positions,
                cache=None if caches is None else caches[i],
            )
        return x if self.norm is None else self.norm(x)

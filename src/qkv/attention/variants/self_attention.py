"""What variants share that know places: self-attention alone, and masks that can be cut.

Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.masks import check_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError


def places(queries: Tensor, keys: Tensor) -> tuple[Int[Tensor, " Q"], Int[Tensor, " K"]]:
    """Number queries and keys (B, H, L, D) by their place; the last ones are level."""
    keys_at = torch.arange(keys.shape[2], device=keys.device)
    return keys_at[keys.shape[2] - queries.shape[2] :], keys_at


def whole_mask(
    mask: Bool[Tensor, "..."] | None,
    queries: Float[Tensor, "B H Q D"],
    keys: Float[Tensor, "B G K D"],
) -> Bool[Tensor, "... Q K"]:
    """Check a mask, True = may attend, and show it with all rows and columns (a view of it)."""
    shape = (*queries.shape[:3], keys.shape[2])
    whole = torch.ones(1, 1, dtype=torch.bool, device=queries.device)
    if mask is not None:
        check_mask(mask, shape)
        whole = torch.atleast_2d(mask)
    return whole.expand(*whole.shape[:-2], *shape[-2:])


def refuse_memory(mechanism: object, memory: Tensor | None) -> None:
    """Raise a ConfigError if there is a memory: its places are not those of the queries."""
    if memory is not None:
        raise ConfigError(
            f"{type(mechanism).__name__} was given a memory, but knows only places of x itself; "
            "use MultiHeadAttention for cross-attention"
        )


class SelfAttention(MultiHeadAttention):
    """Multi-head attention among places of one sequence; a memory is refused."""

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend as multi-head attention does, with its arguments."""
        refuse_memory(self, memory)
        return super().forward(x, mask=mask, positions=positions, cache=cache)

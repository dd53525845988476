"""The base class of variants that depend on positions, which allow self-attention only.

Shapes: B batch, Q queries, K keys.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError


def refuse_memory(mechanism: object, memory: Tensor | None) -> None:
    """Raise a ConfigError if there is a memory, whose positions are unrelated to the queries'."""
    if memory is not None:
        raise ConfigError(
            f"{type(mechanism).__name__} got a memory, but supports self-attention only; "
            "use MultiHeadAttention for cross-attention"
        )


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention; a memory raises an error."""

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Attend; see `MultiHeadAttention.forward`."""
        refuse_memory(self, memory)
        return super().forward(x, mask=mask, positions=positions, cache=cache)

"""A window, and a few tokens that see all and are seen by all.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.core import attention
from qkv.attention.masks import sliding_window_mask, whole_mask
from qkv.attention.multi_head import Rotation
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.errors import ConfigError


def global_tokens_mask(
    queries: Int[Tensor, " Q"],
    keys: Int[Tensor, " K"],
    *,
    n_global: int,
    window: int,
    causal: bool = False,
) -> Bool[Tensor, "Q K"]:
    """Add rows and columns for the first `n_global` places to a window; nothing later if causal."""
    near = sliding_window_mask(queries, keys, window=window, causal=causal)
    is_global = (queries < n_global)[:, None] | (keys < n_global)
    return near | (is_global & (keys <= queries[:, None]) if causal else is_global)


class GlobalTokensAttention(SlidingWindowAttention):
    """Sliding windows, and global tokens at the first places (such as a class token).

    Longformer gives global tokens projections of their own; here all tokens share theirs. Places
    are counted in the tensor, so pad on the right.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        n_global: how many places at the start are global; without any, `SlidingWindowAttention`.
        window: keys seen on either side of a query's own.
        causal: whether later keys are hidden, from global tokens too.
        rotary: turns queries and keys by their positions.

    Raises:
        ConfigError: if the window is not positive or n_global negative.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_global: int,
        window: int,
        causal: bool = False,
        rotary: Rotation | None = None,
    ):
        if n_global < 0:
            raise ConfigError(f"n_global = {n_global}; expected a number of places, 0 or more")
        super().__init__(d_model, n_heads, window=window, causal=causal, rotary=rotary)
        self.n_first = n_global

    def pattern(self, queries: Int[Tensor, " Q"], keys: Int[Tensor, " K"]) -> Bool[Tensor, "Q K"]:
        """Say which places see which."""
        return global_tokens_mask(
            queries, keys, n_global=self.n_first, window=self.window, causal=self.causal
        )

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Let global queries see all keys, which no chunk holds; causal ones see none beyond."""
        heads = super().attend(queries, keys, values, mask)
        n_rows = self.n_first - (keys.shape[2] - queries.shape[2])
        if self.causal or n_rows <= 0:
            return heads
        mask = whole_mask(mask, queries, keys)[..., :n_rows, :]
        return torch.cat(
            (attention(queries[:, :, :n_rows], keys, values, mask=mask), heads[:, :, n_rows:]), 2
        )

"""Endless text: each token sees the first ones, the attention sinks, and a window.

Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.2.
"""

import torch
from torch import Tensor

from qkv.attention.multi_head import Rotation
from qkv.attention.variants.global_tokens import GlobalTokensAttention


class StreamingAttention(GlobalTokensAttention):
    """Causal attention to the first `n_sinks` tokens and the last `window`, without a limit.

    With a `StreamingCache` the same as without, in constant memory (recorded columns are then the
    kept keys). Positions stay those of the text; the paper counts them within the cache.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        n_sinks: tokens at the start that all others see.
        window: keys seen before a query's own.
        rotary: turns queries and keys by their positions.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int,
        n_sinks: int = 4,
        rotary: Rotation | None = None,
    ):
        super().__init__(
            d_model, n_heads, n_global=n_sinks, window=window, causal=True, rotary=rotary
        )

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weights of the kept keys."""
        return super().weights(queries, keys, self._of_kept(mask, keys))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the kept values."""
        return super().attend(queries, keys, values, self._of_kept(mask, keys))

    def _of_kept(self, mask: Tensor | None, keys: Tensor) -> Tensor | None:
        """Drop the columns of forgotten keys from a mask of the whole text."""
        if mask is None or mask.shape[-1] <= keys.shape[2]:
            return mask
        recent = self.n_first - keys.shape[2]
        return torch.cat((mask[..., : self.n_first], mask[..., recent:]), -1)

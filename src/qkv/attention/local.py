"""Local attention (Luong et al. 2015, section 3.2): attend around one position of the memory.

Shapes: B batch, Q queries, K keys.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.core import masked_softmax
from qkv.attention.masks import positions_from_mask, real_keys
from qkv.attention.single_head import SingleHeadAttention
from qkv.errors import ConfigError


class LocalAttention(SingleHeadAttention):
    """Attend within [p_t - D, p_t + D] of an aligned position p_t, with any global scores.

    local-m ("monotonic"): p_t = t, the query's own position. local-p ("predictive"):
    p_t = S sigmoid(v^T tanh(W q_t)) (eq. 9), and the weights are multiplied by a Gaussian around
    p_t with sigma = D / 2 (eq. 10), which is how p_t gets a gradient.

    Args:
        scored: the global attention whose scores are used.
        d_query: width of the queries.
        window: D, the number of positions on either side.
        kind: "local-m" or "local-p".

    Raises:
        ConfigError: if the kind is unknown or the window is not positive.
    """

    def __init__(
        self,
        scored: SingleHeadAttention,
        d_query: int,
        *,
        window: int,
        kind: Literal["local-m", "local-p"],
    ):
        super().__init__()
        if kind not in ("local-m", "local-p"):
            raise ConfigError(f"local attention of kind {kind!r}; expected 'local-m' or 'local-p'")
        if window < 1:
            raise ConfigError(f"a window of {window} positions; expected at least 1 on either side")
        self.scored = scored
        self.window = window
        self.place = None
        if kind == "local-p":
            self.place = nn.Sequential(
                nn.Linear(d_query, d_query, bias=False),
                nn.Tanh(),
                nn.Linear(d_query, 1, bias=False),
            )

    def keys(self, memory: Float[Tensor, "B K Dm"]) -> Float[Tensor, "B K Dk"]:
        """Compute the keys of the global attention."""
        return self.scored.keys(memory)

    def weights(
        self,
        queries: Float[Tensor, "B Q Dq"],
        keys: Float[Tensor, "B K Dk"],
        mask: Bool[Tensor, "..."] | None,
        positions: Int[Tensor, "..."] | None,
    ) -> Float[Tensor, "B 1 Q K"]:
        """Compute the weights in the window; local-p's Gaussian makes them sum to less than 1."""
        # (B, K): S in eq. 9 excludes padding
        shape = (len(queries), 1, queries.shape[1], keys.shape[1])
        real = real_keys(mask, shape, queries.device)
        places = positions_from_mask(real)[:, None, None, :]  # (B, 1, 1, K), from 0
        if self.place is not None:
            lengths = real.sum(-1)[:, None, None]  # S, (B, 1, 1)
            centre = lengths * torch.sigmoid(self.place(queries)).transpose(1, 2)  # (B, 1, Q)
        elif positions is not None:
            centre = positions.reshape(-1, 1, queries.shape[1])
        else:
            centre = torch.arange(queries.shape[1], device=queries.device)
        offset = places - centre[..., None]  # (B, 1, Q, K)
        nearby = (offset.abs() <= self.window) & real[:, None, None, :]
        nearby = nearby if mask is None else nearby & mask
        scores = self.scored.scores(queries, keys, mask).unsqueeze(1)
        weights = masked_softmax(scores, nearby)
        if self.place is None:
            return weights
        return weights * torch.exp(-2 * (offset / self.window) ** 2)  # sigma = D / 2

"""Multi-head latent attention: keys and values are read from one narrow vector a token.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1. Shapes: B batch, H heads, Q queries, K keys,
D head width, C latent width, R rotary width.

    x -- W^DKV -> c (C) ------ W^UK -> keys (H D)      the cache holds c and k^R only:
    |              +---------- W^UV -> values (H D)    C + R numbers a token, not 2 H D
    +--- W^KR --> k^R (R), turned by the position, shared by the heads
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.cache import KeysValues
from qkv.attention.multi_head import Rotation
from qkv.attention.variants.self_attention import SelfAttention


class LatentAttention(SelfAttention):
    """softmax((q^C . W^UK c + q^R . k^R) / sqrt(D + R)) W^UV c (eq. 9 to 11, 14 to 19).

    Standard attention with the composed matrices W^UK W^DKV and W^UV W^DKV, where R adds nothing.
    W^UK is applied to the queries and W^UV to what was mixed (q . W^UK c = W^UK^T q . c), so keys
    are never unfolded: it runs as multi-query attention over the latents. Queries are not
    compressed and latents not normed, which DeepSeek-V2 does besides.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        d_latent: C, of what keys and values share; 4 D in the paper.
        d_rotary: R, of what carries the position; D / 2 in the paper.
        rotary: turns the rotary parts by their positions.
        causal: whether queries see only keys up to their own place.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        d_latent: int,
        d_rotary: int,
        rotary: Rotation,
        causal: bool = False,
    ):
        super().__init__(d_model, n_heads, bias=False, causal=causal, rotary=rotary)
        self.d_latent, self.d_rotary = d_latent, d_rotary
        self.query = nn.Linear(d_model, n_heads * (self.d_head + d_rotary), bias=False)
        self.down = nn.Linear(d_model, d_latent + d_rotary, bias=False)  # W^DKV and W^KR
        self.key = nn.Linear(d_latent, n_heads * self.d_head, bias=False)  # W^UK
        self.value = nn.Linear(d_latent, n_heads * self.d_head, bias=False)  # W^UV

    def queries(self, x: Float[Tensor, "B Q D_model"], positions: Tensor) -> Tensor:
        """Project to W^UK^T q^C and q^R, one (B, H, Q, C + R)."""
        widths = [self.d_head, self.d_rotary]
        content, turned = self.query(x).unflatten(-1, (-1, sum(widths))).split(widths, -1)
        content = content.transpose(1, 2) @ self.key.weight.unflatten(0, (-1, self.d_head))
        queries = torch.cat((content, self._rotate(turned.transpose(1, 2), positions)), -1)
        # Scores will be divided by sqrt(C + R), but are dot products of width D + R.
        return queries * (queries.shape[-1] / sum(widths)) ** 0.5

    def keys_values(self, source: Float[Tensor, "B K D_model"], positions: Tensor) -> KeysValues:
        """Project to c and k^R, one (B, 1, K, C + R); values of no width, for c is both."""
        latent, turned = self.down(source).unsqueeze(1).split([self.d_latent, self.d_rotary], -1)
        keys = torch.cat((latent, self._rotate(turned, positions)), -1)
        return keys, keys[..., :0]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the latents, then unfold what was mixed."""
        latents = super().attend(queries, keys, keys, mask)[..., : self.d_latent]  # (B, H, Q, C)
        return latents @ self.value.weight.unflatten(0, (-1, self.d_head)).transpose(-2, -1)

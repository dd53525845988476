"""Multi-head latent attention: keys and values are computed from one narrow vector per token.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1. Shapes: B batch, H heads, Q queries, K keys,
D head width, C latent width, R rotary width.

    x -- W^DKV -> c (C) ------ W^UK -> keys (H D)      the cache stores c and k^R only:
    |              +---------- W^UV -> values (H D)    C + R numbers per token, not 2 H D
    +--- W^KR --> k^R (R), rotated by position, shared by the heads
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.cache import KeysValues
from qkv.attention.multi_head import Rotation
from qkv.attention.variants.self_attention import SelfAttention


class LatentAttention(SelfAttention):
    """softmax((q^C . W^UK c + q^R . k^R) / sqrt(D + R)) W^UV c (eq. 9 to 11, 14 to 19).

    Without R, this is standard attention with the matrices W^UK W^DKV and W^UV W^DKV. W^UK is
    applied to the queries and W^UV to the weighted sum (q . W^UK c = W^UK^T q . c), so keys are
    never expanded: it runs as multi-query attention over the latents. Unlike in DeepSeek-V2,
    queries are not compressed and latents are not normalized.

    Args:
        d_model: width of input and output.
        n_heads: heads.
        d_latent: C, width of the vector shared by keys and values; 4 D in the paper.
        d_rotary: R, width of the rotary part; D / 2 in the paper.
        rotary: rotates the rotary parts by their positions.
        causal: whether queries see only keys up to their own position.
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
        """Project to W^UK^T q^C and q^R, concatenated to (B, H, Q, C + R)."""
        widths = [self.d_head, self.d_rotary]
        content, turned = self.query(x).unflatten(-1, (-1, sum(widths))).split(widths, -1)
        content = content.transpose(1, 2) @ self.key.weight.unflatten(0, (-1, self.d_head))
        queries = torch.cat((content, self._rotate(turned.transpose(1, 2), positions)), -1)
        # `attention` divides scores by sqrt(C + R), but the paper's dot products have width D + R.
        return queries * (queries.shape[-1] / sum(widths)) ** 0.5

    def keys_values(self, source: Float[Tensor, "B K D_model"], positions: Tensor) -> KeysValues:
        """Project to c and k^R, concatenated to (B, 1, K, C + R); c also serves as the values."""
        latent, turned = self.down(source).unsqueeze(1).split([self.d_latent, self.d_rotary], -1)
        keys = torch.cat((latent, self._rotate(turned, positions)), -1)
        return keys, keys[..., :0]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the weighted sum of the latents, then expand it to values."""
        latents = super().attend(queries, keys, keys, mask)[..., : self.d_latent]  # (B, H, Q, C)
        return latents @ self.value.weight.unflatten(0, (-1, self.d_head)).transpose(-2, -1)

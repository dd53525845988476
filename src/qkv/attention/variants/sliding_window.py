"""A window of keys around each query.

Beltagy, Peters and Cohan 2020, "Longformer: the long-document transformer", section 3.1; causal in
Child et al. 2019 and Mistral 7B. Standard attention where the window is as long as the text.
"""

from typing import Unpack

from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention.core import attention, attention_weights, lengths_are_open
from qkv.attention.masks import key_positions, sliding_window_mask, whole_mask
from qkv.attention.multi_head import AttentionOptions
from qkv.attention.variants.chunks import attention_by_chunks
from qkv.attention.variants.self_attention import SelfAttention
from qkv.errors import ConfigError


class SlidingWindowAttention(SelfAttention):
    """Multi-head attention under a `sliding_window_mask`, of which only the band is computed.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        window: keys on either side of a query's own (Longformer's w / 2; Mistral's W - 1, causal).
        options: of `MultiHeadAttention`; where causal, the side of later keys is hidden.

    Raises:
        ConfigError: if the window is not positive.
    """

    def __init__(
        self, d_model: int, n_heads: int, *, window: int, **options: Unpack[AttentionOptions]
    ):
        if window < 1:
            raise ConfigError(f"a window of {window} places; expected at least 1 on either side")
        super().__init__(d_model, n_heads, **options)
        self.window, self.reach, self.n_first = window, window, 0

    def pattern(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Bool[Tensor, "*batch Q K"]:
        """Return which positions see which."""
        return sliding_window_mask(queries, keys, window=self.window, causal=self.causal)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Compute all weights, most of them 0, for a recorder."""
        allowed, bias = self.allowed(queries, keys, mask), self.score_bias(queries, keys, mask)
        return attention_weights(queries, keys, mask=allowed, bias=bias)

    def allowed(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Bool[Tensor, "b h Q K"]:
        """Return which query may attend to which key, by the mask and by the pattern."""
        pattern = self.pattern(*key_positions(mask, queries, keys)).unsqueeze(-3)
        return whole_mask(mask, queries, keys) & pattern

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values chunk by chunk."""
        if lengths_are_open():
            return attention(
                queries,
                keys,
                values,
                mask=self.allowed(queries, keys, mask),
                bias=self.score_bias(queries, keys, mask),
                dropout=self.active_dropout,
            )
        return attention_by_chunks(
            queries,
            keys,
            values,
            self.pattern,
            reach=self.reach,
            causal=self.causal,
            mask=mask,
            n_first=self.n_first,
            position_bias=self.position_bias,
            dropout=self.active_dropout,
        )

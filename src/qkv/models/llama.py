"""The Llama family (Touvron et al. 2023), Mistral 7B (Jiang et al. 2023), Qwen2 (Yang et al. 2024).

One class serves them all: they differ in their configs.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig, FeedForwardKind
from qkv.blocks.positions import Rotary
from qkv.blocks.rotary_scaling import ByLength, LongRopeScaling, RotaryScaling
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.errors import ConfigError, LengthError
from qkv.models.causal import CausalLM


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """A pre-norm decoder with RMS norm, SwiGLU, rotary positions and grouped-query attention.

    Raises:
        ConfigError: if a window holds no other token, or rotary scaling does not have one divisor
            per pair.
    """

    vocab_size: int
    d_model: int
    n_heads: int
    d_ff: int
    n_layers: int
    feed_forward: FeedForwardKind = "swiglu"
    n_positions: int = 2048  # in training; longer inputs are accepted
    n_kv_heads: int | None = None  # None: n_heads
    d_head: int | None = None  # None: d_model / n_heads
    norm_eps: float = 1e-5
    rotary_base: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    rotary_share: float = 1.0  # of each head's coordinates that rotate, the first ones
    qkv_bias: bool = False  # Qwen2: True
    output_bias: bool = False  # in the attention's output projection
    feed_forward_bias: bool = False
    window: int | None = None  # tokens that a query sees, including its own (Mistral)
    first_window_layer: int = 0  # earlier layers have no window (Qwen2)
    attention_dropout: float = 0.0
    head_dropout: float = 0.1  # of a token classification head
    tied_output: bool = False  # the output layer's weight is the embedding

    def __post_init__(self) -> None:
        """Set the default of n_kv_heads, and check the window and rotary options."""
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        self._check_scaling()
        if self.window is not None and self.window < 2:
            raise ConfigError(
                f"window = {self.window}; expected at least 2: the token itself and another"
            )

    def _check_scaling(self) -> None:
        if not 0 < self.rotary_share <= 1:
            raise ConfigError(
                f"rotary_share = {self.rotary_share}; expected a share above 0, at most 1"
            )
        if isinstance(self.rotary_scaling, LongRopeScaling):
            d_head = self.d_head or self.d_model // self.n_heads
            n_pairs = int(d_head * self.rotary_share) // 2
            for divisors in (self.rotary_scaling.short, self.rotary_scaling.long):
                if len(divisors) != n_pairs:
                    raise ConfigError(
                        f"{len(divisors)} divisors for rotary frequencies; expected {n_pairs}, one "
                        f"for each pair of coordinates that rotates in a head of width {d_head}"
                    )

    def block(self) -> BlockConfig:
        """Return the configuration of every block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm="rms",
            norm_first=True,
            norm_eps=self.norm_eps,
            feed_forward=self.feed_forward,
            bias=self.feed_forward_bias,
            causal=True,
        )

    def attention(self, layer: int) -> MultiHeadAttention:
        """Build the attention of one layer."""
        d_head = self.d_head or self.d_model // self.n_heads
        rotary = Rotary(
            d_head,
            base=self.rotary_base,
            scaling=self.rotary_scaling,
            width=None if self.rotary_share == 1 else int(d_head * self.rotary_share),
        )
        options = AttentionOptions(
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            bias=self.output_bias,
            qkv_bias=self.qkv_bias,
            causal=True,
            dropout=self.attention_dropout,
            rotary=rotary,
        )
        if self.window is None or layer < self.first_window_layer:
            return MultiHeadAttention(self.d_model, self.n_heads, **options)
        window = self.window - 1  # without the query's own position
        return SlidingWindowAttention(self.d_model, self.n_heads, window=window, **options)


class Llama(CausalLM):
    """A causal stack with rotary positions.

    Raises:
        LengthError: in `step`, if rotary scaling depends on the length of the text and the angles
            of earlier tokens would change.
    """

    def __init__(self, config: LlamaConfig):
        block = config.block()
        stack = Stack(
            block,
            config.n_layers,
            make_block=lambda i: Block(block, self_attention=config.attention(i)),
        )
        super().__init__(config.vocab_size, config.d_model, stack, tied_output=config.tied_output)
        self.config = config

    def _advance(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None,
    ) -> Float[Tensor, "B n D"]:
        if isinstance(self.config.rotary_scaling, ByLength):
            self._check_angles(tokens, state, token_mask, self.config.rotary_scaling)
        return super()._advance(tokens, state, token_mask)

    def _check_angles(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None,
        scaling: ByLength,
    ) -> None:
        """Raise if the keys in the cache were rotated by angles that are no longer valid."""
        past = state.n_real.expand(len(tokens))
        new = tokens.shape[1] if token_mask is None else token_mask.sum(1).to(past)
        wrong = scaling.turns_otherwise(past, past + new)
        if wrong.any():
            raise LengthError(
                f"{int((past + new)[wrong].max())} tokens, of which the cache holds "
                f"{int(past[wrong].max())}: beyond {scaling.original_length} this model rotates "
                "all keys by other angles, but those in the cache are already rotated; process "
                "the whole text in one call, or stop at this length"
            )

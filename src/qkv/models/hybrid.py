"""A decoder whose layers differ: most with a cheap mechanism, some with attention to all tokens.

Three layers of the gated delta rule, then one of attention, as in Qwen3-Next; or windows, with
attention without positions in between. All else is that of the Llama family.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants.registry import check_layers, key_sources, make_mechanism
from qkv.attention.variants.shared import PassedKeys, SharedCache
from qkv.blocks.block import Block, LayerCache
from qkv.blocks.config import BlockConfig, FeedForwardKind
from qkv.blocks.positions import Rotary
from qkv.blocks.stack import Stack
from qkv.models.causal import CausalLM


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """A pre-norm decoder with RMS norm, SwiGLU and rotary positions, and a pattern of layers.

    Raises:
        ConfigError: if a layer has an unknown name, or there are none; see `check_layers`.
    """

    vocab_size: int
    d_model: int
    n_heads: int
    d_ff: int
    n_layers: int
    layers: tuple[str, ...] = ("gated_delta", "gated_delta", "gated_delta", "attention")  # repeated
    window: int | None = None  # tokens that a query of "window" sees, including its own
    feed_forward: FeedForwardKind = "swiglu"
    n_positions: int = 2048  # in training; longer inputs are accepted
    n_kv_heads: int | None = None  # None: n_heads; where a mechanism shares key heads
    d_head: int | None = None  # None: d_model / n_heads
    norm_eps: float = 1e-5
    rotary_base: float = 10_000.0
    attention_dropout: float = 0.0  # where a mechanism computes weights
    tied_output: bool = False  # the output layer's weight is the embedding

    def __post_init__(self) -> None:
        """Check the pattern."""
        check_layers(self.layers, self.n_layers, window=self.window)

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
            bias=False,
            causal=True,
        )

    def attention(self, layer: int) -> MultiHeadAttention:
        """Build the mechanism of one layer."""
        d_head = self.d_head or self.d_model // self.n_heads
        options = AttentionOptions(
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            bias=False,
            qkv_bias=False,
            causal=True,
            dropout=self.attention_dropout,
            rotary=Rotary(d_head, base=self.rotary_base),
        )
        name = self.layers[layer % len(self.layers)]
        source = key_sources(self.layers, self.n_layers).get(layer, layer)
        if self.layers[source % len(self.layers)] == "nope":  # queries are rotated as the keys are
            options["rotary"] = None
        return make_mechanism(name, self.d_model, self.n_heads, window=self.window, options=options)


class SharingStack(Stack):
    """A stack in which some layers use the keys and values of earlier ones.

    Args:
        config: configuration of every block.
        n_layers: number of blocks.
        make_block: builds block i.
        sources: for each layer without keys, the layer whose keys it uses.
    """

    def __init__(
        self,
        config: BlockConfig,
        n_layers: int,
        *,
        make_block: Callable[[int], Block],
        sources: Mapping[int, int],
    ):
        super().__init__(config, n_layers, make_block=make_block)
        self.sources = dict(sources)

    def new_caches(self) -> list[LayerCache]:
        """Return empty caches for decoding; a layer without keys has that of its source."""
        caches = super().new_caches()
        for layer, source in self.sources.items():
            caches[layer].self_attention.source = caches[source].self_attention
        return caches

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
        """Run the blocks in order; see `Stack`."""
        caches = self._passed() if caches is None else caches
        return super().forward(
            x, memory, mask=mask, memory_mask=memory_mask, positions=positions, caches=caches
        )

    def _passed(self) -> list[LayerCache | None]:
        """Return caches that only pass keys from layer to layer, for a single forward pass."""
        passed = {source: PassedKeys() for source in self.sources.values()}
        caches: list[LayerCache | None] = [None] * len(self.blocks)
        for layer, source in self.sources.items():
            caches[source] = LayerCache(passed[source])
            caches[layer] = LayerCache(SharedCache(passed[source]))
        return caches


class Hybrid(CausalLM):
    """A causal stack with a mechanism per layer; with "attention" alone, it is a Llama.

    Each layer decodes with its mechanism's cache. A state with a recurrent layer cannot be rewound,
    so speculative decoding needs a pattern without them.
    """

    def __init__(self, config: HybridConfig):
        block = config.block()

        def make_block(i: int) -> Block:
            return Block(block, self_attention=config.attention(i))

        n_layers, sources = config.n_layers, key_sources(config.layers, config.n_layers)
        if sources:
            stack = SharingStack(block, n_layers, make_block=make_block, sources=sources)
        else:
            stack = Stack(block, n_layers, make_block=make_block)
        super().__init__(config.vocab_size, config.d_model, stack, tied_output=config.tied_output)
        self.config = config

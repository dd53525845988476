"""Mechanisms by name, for models whose layers differ: a config names one per layer."""

from collections.abc import Callable, Sequence
from typing import Any

from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.gated_delta import GatedDeltaAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.shared import SharedAttention
from qkv.attention.variants.sigmoid import SigmoidAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.errors import ConfigError

# Builds a layer of d_model, n_heads, the number of earlier keys that a window holds, and options.
Make = Callable[[int, int, int, AttentionOptions], MultiHeadAttention]

MECHANISMS: dict[str, Make] = {
    "attention": lambda d, h, window, options: MultiHeadAttention(d, h, **options),
    "nope": lambda d, h, window, options: MultiHeadAttention(
        d, h, **(options | AttentionOptions(rotary=None))
    ),
    "window": lambda d, h, window, options: SlidingWindowAttention(d, h, window=window, **options),
    "softcap": lambda d, h, window, options: SoftcapAttention(d, h, **options),
    "qk_norm": lambda d, h, window, options: QKNormAttention(d, h, **options),
    "sigmoid": lambda d, h, window, options: SigmoidAttention(d, h, **options),
    "sink": lambda d, h, window, options: SinkAttention(d, h, **options),
    "gated": lambda d, h, window, options: GatedAttention(d, h, **options),
    "differential_v2": lambda d, h, window, options: DifferentialV2Attention(d, h, **options),
    "shared": lambda d, h, window, options: SharedAttention(d, h, **options),
    # Without positions, and with as many key heads as query heads.
    "linear": lambda d, h, window, options: LinearAttention(
        d, h, causal=options.get("causal", False)
    ),
    "gated_delta": lambda d, h, window, options: GatedDeltaAttention(
        d,
        h,
        d_head=options.get("d_head"),
        bias=options.get("bias", True),
        qkv_bias=options.get("qkv_bias"),
        causal=options.get("causal", False),
    ),
}

# Layers that keep no keys of all tokens, which a layer named "shared" could use.
WITHOUT_KEYS = ("window", "shared", "linear", "gated_delta")


def check_layers(layers: Any, n_layers: int, *, window: int | None) -> None:
    """Check the names of a layer pattern, which is repeated until there are n_layers.

    Args:
        layers: names of mechanisms in order.
        n_layers: number of layers.
        window: tokens that a query of a layer named "window" sees, including its own.

    Raises:
        ConfigError: if there is no name, an unknown one, or more names than layers; if a window is
            missing, below 2, or not used by any layer; or if "shared" has no layer before it with
            keys of all tokens.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ConfigError(
            f"layers = {layers!r}; expected a list of at least one of {', '.join(MECHANISMS)}"
        )
    for i, name in enumerate(layers):
        if not isinstance(name, str) or name not in MECHANISMS:
            raise ConfigError(
                f"layers[{i}] = {name!r} is unknown; expected one of {', '.join(MECHANISMS)}"
            )
    if len(layers) > n_layers:
        raise ConfigError(
            f"layers has {len(layers)} names, but n_layers = {n_layers}; expected at most one "
            "name per layer: a shorter list is repeated"
        )
    if ("window" in layers) != (window is not None):
        raise ConfigError(
            f"window = {window} with layers = {', '.join(layers)}; expected a window if, and only "
            "if, a layer is named window"
        )
    if window is not None and (type(window) is not int or window < 2):
        raise ConfigError(f"window = {window}; expected at least 2: the token itself and another")
    if "shared" in layers and layers.index("shared") not in key_sources(layers, len(layers)):
        raise ConfigError(
            f"layers = {', '.join(layers)}; shared uses the keys of a layer before it that keeps "
            f"those of all tokens, and {', '.join(WITHOUT_KEYS)} do not: expected another one first"
        )


def key_sources(layers: Sequence[str], n_layers: int) -> dict[int, int]:
    """Return, for each layer named "shared", the last layer before it with keys of all tokens."""
    source, sources = None, {}
    for i in range(n_layers):
        name = layers[i % len(layers)]
        if name not in WITHOUT_KEYS:
            source = i
        elif name == "shared" and source is not None:
            sources[i] = source
    return sources


def make_mechanism(
    name: str, d_model: int, n_heads: int, *, window: int | None, options: AttentionOptions
) -> MultiHeadAttention:
    """Build a layer's mechanism, by a name that `check_layers` accepts.

    Args:
        name: a key of `MECHANISMS`.
        d_model: width of input and output.
        n_heads: heads.
        window: tokens that a query of "window" sees, including its own.
        options: all but `position_bias`. Mechanisms that never compute weights do not use
            `n_kv_heads`, `dropout` and `rotary`, nor does "linear" use `d_head` and biases.
    """
    return MECHANISMS[name](d_model, n_heads, (window or 0) - 1, options)

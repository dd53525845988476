"""A model's configuration at another number of parameters."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from qkv.checkpoints.building import Uninitialized
from qkv.errors import ConfigError

WIDTH_PER_LAYER = 128  # as in the three largest models of Brown et al. 2020, table 2.1
LAYERS = ("n_layers", "n_encoder_layers", "n_decoder_layers")


@dataclass(frozen=True)
class Scaled:
    """A model on the meta device, and its sizes.

    Args:
        model: model on the meta device.
        sizes: the fields of its configuration that were changed.
        rule: rule by which they were chosen.
    """

    model: nn.Module
    sizes: dict[str, int]
    rule: str


def scaled_model(config: Any, make: Callable[[Any], nn.Module], n_parameters: int) -> Scaled:
    """Return a model with about `n_parameters` parameters, in the proportions of a configuration.

    The width of a head, d_ff / d_model, and the number of query heads per key head are unchanged.
    The deepest stack has one layer for each 128 of the width; the depth of another stack relative
    to it is unchanged. Kaplan et al. 2020, section 3.1: the loss depends little on the shape.

    Args:
        config: a dataclass with d_model, n_heads, d_ff and numbers of layers.
        make: builds the model of a config.
        n_parameters: approximate number of parameters; vocabulary and positions are not scaled.

    Raises:
        ConfigError: the config has no such sizes, or the number is too small for the vocabulary.
    """
    names = {field.name for field in fields(config)} if hasattr(config, "d_model") else set[str]()
    depths = {name: getattr(config, name) for name in LAYERS if name in names}
    if not depths or not {"n_heads", "d_ff"} <= names:
        raise ConfigError(
            f"--parameters for a {type(config).__name__}; expected a Transformer: its sizes are "
            "d_model, n_heads, d_ff and a number of layers"
        )

    def build(unit: int) -> Scaled:
        sizes = _sizes(config, depths, unit)
        with torch.device("meta"), Uninitialized():
            model = make(replace(config, **sizes))
        rule = f"one layer for each {WIDTH_PER_LAYER} of the width; heads and d_ff in proportion"
        return Scaled(model, sizes, rule)

    low, high = build(1), build(2)
    if (least := _count(low.model)) > n_parameters:
        raise ConfigError(
            f"--parameters {n_parameters:,}; expected at least {least:,}, those of one layer of "
            f"width {low.sizes['d_model']}: the vocabulary and the positions are not scaled"
        )
    first, last = 1, 2
    while _count(high.model) < n_parameters:
        first, low, last = last, high, 2 * last
        high = build(last)
    while last - first > 1:
        middle = (first + last) // 2
        between = build(middle)
        if _count(between.model) < n_parameters:
            first, low = middle, between
        else:
            last, high = middle, between
    return min((low, high), key=lambda one: abs(_count(one.model) - n_parameters))


def _sizes(config: Any, depths: dict[str, int], unit: int) -> dict[str, int]:
    """Return the sizes for `unit` groups of query heads that share a key head."""
    n_kv_heads = getattr(config, "n_kv_heads", None)
    per_unit = config.n_heads // (n_kv_heads or config.n_heads)
    width = unit * per_unit * (config.d_model // config.n_heads)
    sizes = {
        "d_model": width,
        "n_heads": unit * per_unit,
        "d_ff": max(8, 8 * round(config.d_ff * width / config.d_model / 8)),
    }
    if n_kv_heads is not None:
        sizes["n_kv_heads"] = unit
    deepest = max(1, round(width / WIDTH_PER_LAYER))
    for name, depth in depths.items():
        sizes[name] = max(1, round(deepest * depth / max(depths.values())))
    return sizes


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

"""Tables of text about a model: its blocks, attention, parameters, memory and positions."""

import re
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from qkv.attention.cache import KeyValueCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.single_head import SingleHeadAttention
from qkv.attention.variants.shared import SharedAttention
from qkv.blocks.block import Block
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.positions import ALiBi, LearnedPositions, RelativeBias, Rotary, SinusoidalPositions
from qkv.blocks.stack import Stack

Rows = list[dict[str, str]]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CACHED = 1000  # tokens


def describe_blocks(model: nn.Module) -> Rows:
    """Return one row per stack of blocks."""
    rows = []
    for name, stack in model.named_modules():
        if not isinstance(stack, Stack):
            continue
        block = cast(Block, stack.blocks[0])
        parts = [part for part, _ in block.named_children() if not part.endswith("_residual")]
        residual, feed_forward = block.feed_forward_residual, cast(FeedForward, block.feed_forward)
        order = "before" if residual.norm_first else "after"
        rows.append(
            {
                "stack": name,
                "blocks": str(len(stack.blocks)),
                "sublayers": ", ".join(parts),
                "norm": f"{type(residual.norm).__name__} {order} each",
                "feed-forward": f"{feed_forward.kind}, {feed_forward.up.out_features:,} wide",
            }
        )
    return rows


def describe_attention(model: nn.Module) -> Rows:
    """Return one row per kind of attention; modules of the same kind share a row."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention | SingleHeadAttention):
            row = {"kind": type(module).__name__, **_heads(module)}
            alike.setdefault(tuple(row.items()), []).append(name)
    return [{"where": _joined(names), **dict(row)} for row, names in alike.items()]


def describe_parameters(model: nn.Module) -> Rows:
    """Return one row per part, summed over blocks; shared parameters count once."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    total = sum(counts.values())
    rows = [*counts.items(), ("all", total)]
    return [{"part": part, "parameters": f"{n:,}", "share": f"{n / total:.1%}"} for part, n in rows]


def describe_memory(model: nn.Module) -> Rows:
    """Return one row per dtype: memory for the weights, for AdamW training and for the cache."""
    parameters = list(model.parameters())
    n_parameters, own = sum(p.numel() for p in parameters), parameters[0].dtype
    cached = cached_per_token(model)
    rows = []
    for dtype in dict.fromkeys((own, *DTYPES)):
        weights = n_parameters * dtype.itemsize
        row = {
            "dtype": str(dtype).removeprefix("torch.") + (" (as it is)" if dtype == own else ""),
            "weights": size(weights),
            "weights, gradients, AdamW": size(4 * weights),
        }
        if cached:
            row[f"cache of {CACHED:,} tokens"] = size(cached * CACHED * dtype.itemsize)
        rows.append(row)
    return rows


def cached_per_token(model: nn.Module) -> int:
    """Return how many numbers the caches store for each token that the model reads or writes."""
    return sum(
        2 * module.key.out_features
        for module in model.modules()
        if isinstance(module, MultiHeadAttention)
        and module.causal
        and type(module.new_cache()) is KeyValueCache  # the others do not grow
    )


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Return second names of shared parameters, with their first names."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in first:
            first[id(parameter)] = name
        elif _numbered(name) != _numbered(first[id(parameter)]):  # not one that all blocks share
            shared[name] = first[id(parameter)]
    return shared


def name_positions(module: object) -> str:
    """Describe how a module encodes positions; empty if it does not."""
    match module:
        case LearnedPositions():
            return f"learned, {module.max_length:,}"
        case SinusoidalPositions():
            return f"sinusoids, {module.layout}"
        case Rotary():
            scaling = "" if module.scaling is None else f", {module.scaling}"
            return f"rotary, base {module.base:,.0f}{scaling}"
        case RelativeBias():
            return f"relative bias, {module.n_buckets} buckets up to {module.max_distance}"
        case ALiBi():
            return "ALiBi"
    return ""


def size(n_bytes: int) -> str:
    """Format a number of bytes for people: 1 MB is a million."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.1f} {unit}"
    return f"{n_bytes / 1000:,.1f} kB"


def _heads(module: MultiHeadAttention | SingleHeadAttention) -> dict[str, str]:
    if isinstance(module, SingleHeadAttention):
        n_heads = n_kv_heads = 1
        d_head = causal = window = None
        positions = ""
    else:
        n_heads, d_head, causal = module.n_heads, module.d_head, module.causal
        shared = isinstance(module, SharedAttention)
        n_kv_heads = "of an earlier layer" if shared else module.key.out_features // d_head
        window = getattr(module, "window", None)
        positions = name_positions(module.rotary) or name_positions(module.position_bias)
    side = "before" if causal else "on either side"
    return {
        "heads": str(n_heads),
        "key heads": str(n_kv_heads),
        "width": "" if d_head is None else str(d_head),
        "causal": "yes" if causal else "no",
        "window": "" if window is None else f"{window:,} {side}",
        "positions": positions,
    }


def _part(name: str) -> str:
    """Return the part of a parameter: a sublayer of all blocks, or a module outside them."""
    module = name.rpartition(".")[0] or name
    block = re.match(r"(.*\.)\d+\.(\w+)", module)
    return f"{block[1]}*.{block[2]}" if block else module


def _numbered(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _joined(names: Iterable[str]) -> str:
    """Combine the names of modules in several blocks into one, with the blocks' numbers."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        numbers.setdefault(_numbered(name), []).extend(re.findall(r"\.(\d+)\.", name))
    return ", ".join(
        pattern.replace("*", f"{own[0]}-{own[-1]}" if len(own) > 1 else "".join(own))
        for pattern, own in numbers.items()
    )

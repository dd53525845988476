"""Seeing attention: weights are computed beside the fused call, so that looking changes nothing.

A mechanism has an attribute `recorder`, None unless someone watches. While `record_attention` is
open it is a function that takes the weights; not looking costs one `is None`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, cat, nn

from qkv.errors import ConfigError, ShapeError

Recorder = Callable[[Float[Tensor, "batch heads queries keys"]], None]


class Watchable(Protocol):
    """An attention mechanism: whatever has a recorder can be watched."""

    recorder: Recorder | None


class AttentionRecord(Mapping[str, Tensor]):
    """Weights by the name of their module, each (batch, heads, queries, keys).

    What one module computes in several calls (decoding steps) is joined along the queries; where
    the keys grew meanwhile, earlier queries get zeros for the keys that did not exist yet.
    """

    def __init__(self, heads: Sequence[int] | None = None):
        self._heads = heads
        self._parts: dict[str, list[Tensor]] = {}
        self._thread = threading.get_ident()

    def recorder(self, name: str) -> Recorder:
        """Return the function that a module named `name` hands its weights to."""

        def record(weights: Float[Tensor, "batch heads queries keys"]) -> None:
            # The model may serve other threads meanwhile: their requests are not ours to show.
            if threading.get_ident() != self._thread:
                return
            heads, n_heads = self._heads, weights.shape[1]
            if heads is not None and not all(0 <= head < n_heads for head in heads):
                raise ConfigError(
                    f"heads {list(heads)} of {name!r} were asked for; it has {n_heads}, "
                    f"numbered 0 to {n_heads - 1}"
                )
            chosen = weights if heads is None else weights[:, list(heads)]
            self._parts.setdefault(name, []).append(chosen.detach())

        return record

    def __getitem__(self, name: str) -> Float[Tensor, "batch heads queries keys"]:
        if name not in self._parts:
            raise KeyError(f"{name!r} recorded nothing; recorded were: {', '.join(self) or 'none'}")
        parts = self._parts[name]
        sizes = {part.shape[0] for part in parts}
        if len(sizes) > 1:
            raise ShapeError(
                f"the batch of {name!r} changed from call to call (sizes {sorted(sizes)}), so its "
                "queries cannot be joined: record one forward pass over what was decoded instead"
            )
        n_keys = max(part.shape[-1] for part in parts)
        return cat([F.pad(part, (0, n_keys - part.shape[-1])) for part in parts], dim=2)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


@contextmanager
def record_attention(
    model: nn.Module, *, layers: Sequence[str] | None = None, heads: Sequence[int] | None = None
) -> Iterator[AttentionRecord]:
    """Record the attention weights of everything that `model` computes inside the `with`.

        with record_attention(model) as weights:
            model(source, target)
        weights["decoder.blocks.0.cross_attention"]  # (batch, heads, queries, keys)

    Args:
        model: whose attention modules are watched.
        layers: names of the attention modules to watch; None watches all.
        heads: which heads to keep; None keeps all.

    Raises:
        ConfigError: if a name is no attention module of the model, or is being recorded already.
    """
    watchable = {
        name or "attention": cast(Watchable, module)
        for name, module in model.named_modules()
        if hasattr(module, "recorder")
    }
    names = list(watchable) if layers is None else list(layers)
    unknown = [name for name in names if name not in watchable]
    if unknown or not names:
        raise ConfigError(
            f"no attention to record under {unknown or 'any name'}; "
            f"this {type(model).__name__} has: {', '.join(watchable) or 'none'}"
        )
    if any(watchable[name].recorder is not None for name in names):
        raise ConfigError("this model is being recorded already; close that `with` first")
    record = AttentionRecord(heads)
    for name in names:
        watchable[name].recorder = record.recorder(name)
    try:
        yield record
    finally:
        for name in names:
            watchable[name].recorder = None

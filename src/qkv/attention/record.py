"""Record attention weights. They are computed beside the fused call, so the output does not change.

An attention module has an attribute `recorder`, None unless it is recorded. Inside
`record_attention` it is a function that takes the weights. Otherwise it costs one `is None`.
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
    """A module with a `recorder`, whose attention can be recorded."""

    recorder: Recorder | None


class AttentionRecord(Mapping[str, Tensor]):
    """Attention weights by module name, each (batch, heads, queries, keys).

    The weights of several calls (decoding steps) are concatenated along the queries. If the number
    of keys grew, earlier queries get zeros for the keys that did not exist yet.
    """

    def __init__(self, heads: Sequence[int] | None = None):
        self._heads = heads
        self._parts: dict[str, list[Tensor]] = {}
        self._thread = threading.get_ident()

    def recorder(self, name: str) -> Recorder:
        """Return the function to which the module `name` passes its weights."""

        def record(weights: Float[Tensor, "batch heads queries keys"]) -> None:
            # The model may serve other threads at the same time; their requests are not recorded.
            if threading.get_ident() != self._thread:
                return
            heads, n_heads = self._heads, weights.shape[1]
            if heads is not None and not all(0 <= head < n_heads for head in heads):
                raise ConfigError(
                    f"cannot record heads {list(heads)} of {name!r}: it has {n_heads}, "
                    f"numbered 0 to {n_heads - 1}"
                )
            chosen = weights if heads is None else weights[:, list(heads)]
            self._parts.setdefault(name, []).append(chosen.detach())

        return record

    def __getitem__(self, name: str) -> Float[Tensor, "batch heads queries keys"]:
        if name not in self._parts:
            raise KeyError(f"{name!r} is not among the records: {', '.join(self) or 'none'}")
        parts = self._parts[name]
        sizes = {part.shape[0] for part in parts}
        if len(sizes) > 1:
            raise ShapeError(
                f"the batch of {name!r} changed from call to call (sizes {sorted(sizes)}), so its "
                "queries cannot be joined; record one forward pass over the decoded tokens instead"
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
    """Record all attention weights that `model` computes inside the `with`.

        with record_attention(model) as weights:
            model(source, target)
        weights["decoder.blocks.0.cross_attention"]  # (batch, heads, queries, keys)

    Args:
        model: model with attention modules.
        layers: names of the attention modules to record; None means all.
        heads: heads to keep; None means all.

    Raises:
        ConfigError: if a name is not an attention module of the model, or is already being
            recorded.
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
        raise ConfigError("this model is already being recorded; leave that `with` block first")
    record = AttentionRecord(heads)
    for name in names:
        watchable[name].recorder = record.recorder(name)
    try:
        yield record
    finally:
        for name in names:
            watchable[name].recorder = None

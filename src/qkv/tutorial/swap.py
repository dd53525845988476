"""Make the library use a function of your own."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from qkv.attention import core, scores
from qkv.errors import ConfigError

# Functions that the fused kernel does not call: while one is swapped, attention is explicit.
EXPLICIT = (
    scores.scaled_dot_scores,
    core.mask_scores,
    core.masked_softmax,
    core.attention_weights,
    core.explicit_attention,
)
_OPEN: list[Any] = []  # what is swapped now


@contextmanager
def swap(original: Callable[..., Any], mine: Callable[..., Any]) -> Iterator[None]:
    """Let every module of the library that uses a function or class use yours instead.

    Library code calls your version until the `with` block ends: ::

        with swap(masked_softmax, mine):
            model(tokens)

    Args:
        original: a function or class of the library.
        mine: called in its place, with the same arguments.

    Raises:
        ConfigError: no module uses `original`, it is swapped already, `mine` was never called in
            the block, or attention drops weights while one of `EXPLICIT` is swapped.
    """
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return mine(*args, **kwargs)

    swapped = _uses(original, counted)
    name = getattr(original, "__name__", repr(original))
    if original in _OPEN:
        raise ConfigError(f"{name} is swapped already; expected one block for each function")
    if not swapped:
        raise ConfigError(f"no module of the library uses {name}; expected one of its functions")
    if original in EXPLICIT:
        swapped += _uses(core.attention, _explicit)
    _OPEN.append(original)
    try:
        for module, attribute, _, new in swapped:
            setattr(module, attribute, new)
        yield
    finally:
        _OPEN.remove(original)
        # Modules that were imported in the block use the new ones, too.
        for new, old in {id(new): (new, old) for _, _, old, new in swapped}.values():
            for module, attribute, _, _ in _uses(new, old):
                setattr(module, attribute, old)
    if not calls:
        raise ConfigError(
            f"nothing in this block called {name}, so yours did not run; expected a model that "
            "uses it (was the model called inside the block?)"
        )


def _uses(original: Any, new: Any) -> list[tuple[Any, str, Any, Any]]:
    """Return each use of an object in the library's modules: module, attribute, old and new."""
    return [
        (module, attribute, original, new)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "qkv" and module is not sys.modules[__name__]
        for attribute, value in list(vars(module).items())
        if value is original
    ]


@functools.wraps(core.attention)
def _explicit(*args: Any, dropout: float = 0.0, **kwargs: Any) -> Tensor:
    if dropout:
        raise ConfigError(
            f"dropout = {dropout} of attention weights, which the explicit formula does not "
            "support; expected a model in eval mode, or one without it"
        )
    return core.explicit_attention(*args, **kwargs)

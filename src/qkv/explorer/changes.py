"""Changes to a model inside a `with` block: disabled heads, other masks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.heads import disable_heads
from qkv.attention.masks import causal_mask, sliding_window_mask, with_four_axes
from qkv.attention.multi_head import MultiHeadAttention
from qkv.errors import ConfigError

Kind = Literal["causal", "window"]
Mask = Literal["own", "causal", "window", "encoder causal", "encoder window", "decoder window"]
MASKS: tuple[Mask, ...] = get_args(Mask)
WINDOW = 2  # tokens on either side


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changes to a model.

    Args:
        ablate: heads whose outputs are zeroed, as (index of the attention module, head).
        mask: mask of self-attention: the model's own; one that also hides later tokens; or one that
            also hides tokens more than two positions away; of all stacks, or of the named one.

    Raises:
        ConfigError: there is no such mask.
    """

    ablate: tuple[tuple[int, int], ...] = ()
    mask: Mask = "own"

    def __post_init__(self) -> None:
        """Check the mask."""
        if self.mask not in MASKS:
            raise ConfigError(f"mask = {self.mask!r}; expected one of {', '.join(MASKS)}")

    def __bool__(self) -> bool:
        return bool(self.ablate) or self.mask != "own"


UNCHANGED = Changes()


@contextmanager
def changed(model: nn.Module, changes: Changes, names: Sequence[str]) -> Iterator[None]:
    """Change a model inside the `with` block.

    Args:
        model: the model.
        changes: the changes.
        names: names of the attention modules to which `changes.ablate` refers.

    Raises:
        ConfigError: there is no such module, head or stack.
    """
    with ExitStack() as stack:
        heads_of: dict[int, list[int]] = {}
        for i, head in changes.ablate:
            if not 0 <= i < len(names):
                raise ConfigError(f"attention {i} does not exist; expected 0 to {len(names) - 1}")
            heads_of.setdefault(i, []).append(head)
        for i, heads in heads_of.items():
            stack.enter_context(disable_heads(model, names[i], heads))
        if changes.mask != "own":
            where, _, kind = changes.mask.rpartition(" ")
            if not any(name.startswith(where) for name in names):
                raise ConfigError(f"mask = {changes.mask!r} of a model without {where}")
            for name, module in model.named_modules():
                if isinstance(module, MultiHeadAttention) and name.startswith(where):
                    hook: Any = _masker("causal" if kind == "causal" else "window")
                    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
        yield


def _masker(kind: Kind) -> Callable[..., Any]:
    """Return a hook that narrows the mask of self-attention."""

    def narrow(_module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        x, *memory = inputs
        if any(one is not None for one in (*memory, options.get("memory"), options.get("cache"))):
            return None
        n, device = x.shape[1], x.device
        places = torch.arange(n, device=device)
        window = sliding_window_mask(places, places, window=WINDOW)
        more = causal_mask(n, n, device) if kind == "causal" else window
        mask = options.get("mask")
        return inputs, {
            **options,
            "mask": with_four_axes(more) if mask is None else mask & more,
        }

    return narrow


@contextmanager
def each_head_disabled(module: MultiHeadAttention) -> Iterator[None]:
    """Zero the output of head h in row h of a batch, inside the `with` block.

    One pass over a batch of as many rows as heads shows the effect of each; see `disable_heads`.
    """

    def silence(
        _output: nn.Module, inputs: tuple[Float[Tensor, "H Q H_times_D"]]
    ) -> Float[Tensor, "H Q H_times_D"]:
        each = inputs[0].unflatten(-1, (module.n_heads, -1)).clone()  # (H, Q, H, D)
        rows = torch.arange(module.n_heads, device=each.device)
        each[rows, :, rows] = 0
        return each.flatten(2)

    hook = module.output.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        hook.remove()

"""What a causal language model loses on texts, however long they are."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.progress import track

from qkv.data.pretraining import collate_targets
from qkv.errors import ConfigError
from qkv.models.causal import CausalLM
from qkv.tasks.console import plain_console

LOGITS = 2**23  # that exist at one time


class Window(NamedTuple):
    """A stretch of a text.

    Args:
        row: number of the text.
        tokens: of the stretch.
        new: how many of its last tokens are foretold here.
    """

    row: int
    tokens: Sequence[int]
    new: int


def foretell(
    model: CausalLM,
    rows: Sequence[Sequence[int]],
    *,
    context: int,
    stride: int,
    progress: bool = False,
) -> list[float]:
    """The sum of -ln p over all tokens of each row but its first.

    A row of more than a context is read in windows of one, each `stride` tokens further. A window
    foretells what none before it has: so each token is foretold once, from at least
    `context - stride` tokens before it, or from all that there are.

    Args:
        model: in evaluation mode.
        rows: ids, at least two each.
        context: most tokens that are read at once.
        stride: from 1 to `context`.
        progress: show a bar, where the errors go.

    Raises:
        ConfigError: another stride.
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"stride = {stride}; expected from 1 to the context, {context}")
    windows = [one for i, row in enumerate(rows) for one in _windows(i, row, context, stride)]
    windows.sort(key=lambda one: len(one.tokens))
    at_once = max(1, LOGITS // (context * model.config.vocab_size))
    device = next(model.parameters()).device
    losses = torch.zeros(len(rows), dtype=torch.float64)
    console = plain_console(stderr=True)
    off = not (progress and console.is_terminal)
    starts = range(0, len(windows), at_once)
    for first in track(starts, "foretelling", console=console, transient=True, disable=off):
        some = windows[first : first + at_once]
        asked = [(w.tokens[:-1], _places(w), w.tokens[-w.new :]) for w in some]
        batch = collate_targets(asked, pad=0).to(device)
        with torch.inference_mode():
            hidden = model.hidden(batch.tokens).flatten(0, 1)[batch.places]
            logits = model.head(hidden)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            lost = F.cross_entropy(logits, batch.targets, reduction="none")
        owners = torch.tensor([w.row for w in some for _ in range(w.new)])
        losses.index_add_(0, owners, lost.double().cpu())
    return losses.tolist()


def _windows(number: int, row: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Cut a row; a window reads `context` tokens and foretells the one after each."""
    done = 1  # tokens that are foretold, or need not be
    while done < len(row):
        end = min(len(row), context + 1 if done == 1 else done + stride)
        yield Window(number, row[max(0, end - context - 1) : end], end - done)
        done = end


def _places(window: Window) -> range:
    return range(len(window.tokens) - 1 - window.new, len(window.tokens) - 1)

"""The log-likelihood of texts of any length under a causal language model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from qkv.data.batches import pad_sequences
from qkv.data.pretraining import MaskedExample, TokenBatch, collate_targets
from qkv.errors import ConfigError
from qkv.models.causal import CausalLM
from qkv.tasks.console import progress_bar

LOGITS = 2**23  # logits in memory at one time


class Window(NamedTuple):
    """A piece of a text.

    Args:
        row: index of the text.
        tokens: token ids of the piece.
        new: number of tokens at its end that are scored here.
    """

    row: int
    tokens: Sequence[int]
    new: int


def negative_log_likelihoods(
    model: CausalLM,
    rows: Sequence[Sequence[int]],
    *,
    context: int,
    stride: int,
    progress: bool = False,
) -> list[float]:
    """Return the sum of -ln p over all tokens of each row except the first.

    Rows longer than the context are scored with a sliding window: each token is scored once, with
    at least `context - stride` tokens of left context, or all that exists.

    Args:
        model: language model in evaluation mode.
        rows: token ids, at least two per row.
        context: maximum number of tokens of a window.
        stride: number of tokens between the starts of two windows, from 1 to `context`.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: the stride is out of range.
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"stride = {stride}; expected from 1 to the context, {context}")
    windows = [one for i, row in enumerate(rows) for one in _windows(i, row, context, stride)]
    windows.sort(key=lambda one: len(one.tokens))
    at_once = max(1, LOGITS // (context * model.embedding.weight.shape[0]))
    losses = torch.zeros(len(rows), dtype=torch.float64)
    for first in progress_bar(range(0, len(windows), at_once), "scoring", show=progress):
        some = windows[first : first + at_once]
        examples = [(w.tokens[:-1], _scored(w), w.tokens[-w.new :]) for w in some]
        batch = collate_targets(examples, pad=0).to(model.embedding.weight.device)
        with torch.inference_mode():
            each = _losses(model, batch)
        owners = [w.row for w in some for _ in range(w.new)]
        losses.index_add_(0, torch.tensor(owners), each.double().cpu())
    return losses.tolist()


def _losses(model: CausalLM, batch: TokenBatch) -> Float[Tensor, " targets"]:
    """Return -ln p of each target."""
    logits = model.head(model.hidden(batch.tokens).flatten(0, 1)[batch.positions])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, batch.targets, reduction="none")


def _windows(number: int, row: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """Split a row into windows of up to `context` inputs, whose targets are the next tokens."""
    done = 1  # the first token is not scored
    while done < len(row):
        end = min(len(row), context + 1 if done == 1 else done + stride)
        yield Window(number, row[max(0, end - context - 1) : end], end - done)
        done = end


def _scored(window: Window) -> range:
    return range(len(window.tokens) - 1 - window.new, len(window.tokens) - 1)


def continuation_log_likelihoods(
    model: CausalLM,
    rows: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    start: Sequence[int],
    progress: bool = False,
) -> Float64[Tensor, "rows continuations"]:
    """Return the log-likelihood of each continuation after `start` and each row.

    Shared prefixes are computed once: `start` for a batch, and a row for its continuations.

    Args:
        model: language model in evaluation mode.
        rows: token ids, at least one per row.
        continuations: token ids, at least one each.
        start: token ids before every row, at least one.
        progress: show a progress bar on standard error.
    """
    device = model.embedding.weight.device
    width = max(map(len, continuations))
    at_once = max(1, LOGITS // (len(continuations) * width * model.embedding.weight.shape[0]))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = torch.zeros(len(rows), len(continuations), dtype=torch.float64)
    ends, real = pad_sequences(continuations, 0)
    ends, real = ends.to(device), real.to(device)
    for first in progress_bar(range(0, len(order), at_once), "scoring", show=progress):
        some = order[first : first + at_once]
        tokens, mask = pad_sequences([rows[i][::-1] for i in some], 0)
        tokens, mask = tokens.flip(1).to(device), mask.flip(1).to(device)  # padded on the left
        with torch.inference_mode():
            state = model.start(torch.tensor([start], device=device))
            state.reorder(torch.zeros(len(some), dtype=torch.long, device=device))
            if tokens.shape[1] > 1:
                model.step(tokens[:, :-1], state, mask[:, :-1])
            each = torch.arange(len(some), device=device).repeat_interleave(len(ends))
            state.reorder(each)
            inputs = torch.cat((tokens[each, -1:], ends[:, :-1].repeat(len(some), 1)), 1)
            logits = model.step(inputs, state)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            targets = ends.repeat(len(some), 1)
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        sums = (losses.view(targets.shape) * real.repeat(len(some), 1)).sum(1)
        scores[some] = -sums.view(len(some), -1).double().cpu()
    return scores


def target_losses(
    model: CausalLM, rows: Sequence[MaskedExample], *, progress: bool = False
) -> list[float]:
    """Return the sum of -ln p over the targets of each row.

    Args:
        model: language model in evaluation mode.
        rows: the tokens of each text, the positions of its targets, and the targets there.
        progress: show a progress bar on standard error.
    """
    losses = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    longest = max(len(rows[order[-1]][0]), 1)
    at_once = max(1, LOGITS // (longest * model.embedding.weight.shape[0]))
    for first in progress_bar(range(0, len(rows), at_once), "scoring", show=progress):
        some = order[first : first + at_once]
        batch = collate_targets([rows[i] for i in some], pad=0)
        with torch.inference_mode():
            each = _losses(model, batch.to(model.embedding.weight.device))
        sizes = [len(rows[i][2]) for i in some]
        for i, own in zip(some, each.double().cpu().split(sizes), strict=True):
            losses[i] = float(own.sum())
    return losses

"""The loss of extractive question answering."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.data.windows import SpanBatch
from qkv.errors import DataError


def span_loss(model: nn.Module, batch: SpanBatch) -> Float[Tensor, ""]:
    """Sum the mean cross-entropy of the span's start and end over the rows.

    Devlin et al. 2019, section 4.2; the span of a row without an answer is at [CLS] (section 4.3).

    Args:
        model: returns logits (batch, length, 2), such as a `QuestionAnswering`.
        batch: windows with their answer spans.

    Raises:
        DataError: a span ends before it starts, or is not on real tokens (checked on the CPU only:
            elsewhere the check would wait for the device).
    """
    if batch.starts.device.type == "cpu":
        _check_spans(batch)
    logits = model(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)  # (B, L, 2)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    start, end = logits.masked_fill(~batch.token_mask[..., None], -math.inf).unbind(-1)  # (B, L)
    losses = [
        F.cross_entropy(scores, places, reduction="sum")
        for scores, places in ((start, batch.starts), (end, batch.ends))
    ]
    return (losses[0] + losses[1]) / 2


def _check_spans(batch: SpanBatch) -> None:
    lengths = batch.token_mask.sum(1)
    wrong = (batch.starts < 0) | (batch.ends < batch.starts) | (batch.ends >= lengths)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"row {row} has a span from {int(batch.starts[row])} to {int(batch.ends[row])}, but "
            f"{int(lengths[row])} tokens; expected 0 <= start <= end < tokens"
        )

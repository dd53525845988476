"""Losses: cross-entropy fused with the output projection, without the logits of a whole batch."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qkv.data.batches import PairBatch
from qkv.data.summary_batches import SummaryBatch
from qkv.errors import VocabularyError
from qkv.models.pointer_generator import PointerGenerator
from qkv.models.seq2seq import Seq2Seq

# Legend of the shapes: N rows (target tokens), C rows of one chunk, V vocabulary, d width.

# 16 MiB in float32: large enough for full speed, small enough that glibc keeps the memory for the
# next step. It returns blocks over 32 MiB at once, and touching new pages takes time (docs/log.md).
LOGITS_PER_CHUNK = 2**22


def pair_loss(
    model: Seq2Seq[Any], batch: PairBatch, *, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies over the real target tokens of a batch.

    Padding is dropped before the projection, so it costs nothing there. The rows to keep come from
    a sort, not from `hidden[mask]`: their number is known, so the host need not wait for an
    accelerator.
    """
    hidden = model.hidden(batch.source, batch.target_input, source_mask=batch.source_mask)
    real = batch.target_mask.flatten().int().argsort(descending=True, stable=True)
    real, head = real[: batch.n_targets], cast(nn.Linear, model.head)
    return linear_cross_entropy(
        hidden.flatten(0, 1)[real],
        head.weight,
        head.bias,
        batch.target.flatten()[real],
        smoothing=smoothing,
    )


def summary_loss(model: PointerGenerator, batch: SummaryBatch) -> Float[Tensor, ""]:
    """Sum of the negative log-likelihoods of the real target tokens, written or copied."""
    return model.loss(
        batch.features,
        batch.source,
        batch.target_input,
        batch.target,
        source_mask=batch.source_mask,
        target_mask=batch.target_mask,
    )


def linear_cross_entropy(
    hidden: Float[Tensor, "rows d"],
    weight: Float[Tensor, "vocab d"],
    bias: Float[Tensor, " vocab"] | None,
    targets: Int[Tensor, " rows"],
    *,
    smoothing: float = 0.0,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over rows of the cross-entropy of `hidden @ weight.T + bias`, never holding all logits.

    Label smoothing as in Szegedy et al. (2016), section 7, and Vaswani et al. (2017), section 5.4:
    (1 - smoothing) of the weight on the target, the rest spread evenly over the whole vocabulary.

    Args:
        hidden: input of the projection, one row per token.
        weight: weight of the projection.
        bias: bias of the projection.
        targets: ids of the target tokens.
        smoothing: share of the weight that is spread, between 0 and 1.
        chunk_size: rows whose logits exist at the same time; default about `LOGITS_PER_CHUNK`
            logits.

    Raises:
        VocabularyError: a target is not a row of `weight` (checked on the CPU only:
            elsewhere the check would wait for the device, which checks by itself; so does compiled
            code).
    """
    vocab = len(weight)
    if targets.device.type == "cpu" and len(targets) and not torch.compiler.is_compiling():
        _check_targets(targets, vocab)
    if bias is None:
        bias = weight.new_zeros(vocab)
    if hidden.dtype in (torch.float16, torch.bfloat16):
        hidden, weight, bias = hidden.float(), weight.float(), bias.float()
    rows = chunk_size or max(512, LOGITS_PER_CHUNK // vocab)
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, smoothing, rows)
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    losses = [
        F.cross_entropy(F.linear(h, weight, bias), t, reduction="sum", label_smoothing=smoothing)
        for h, t in chunks
    ]
    return torch.stack(losses).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Compute the gradients while a chunk's logits are in the cache; backward only scales them.

    With z a row's logits and s the smoothing, loss = logsumexp(z) - (1 - s) z[target] - s mean(z)
    and dloss/dz = softmax(z) - (1 - s) onehot(target) - s / V. The terms of the mean are sums over
    all rows or all columns, hence vectors, and never touch a chunk's logits.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, smoothing, rows):
        share = smoothing / len(weight)
        sum_hidden, sum_weight = hidden.sum(0), weight.sum(0)
        loss = -share * (sum_hidden @ sum_weight + len(hidden) * bias.sum())
        grad_hidden = torch.empty_like(hidden)
        grad_weight = (-share * sum_hidden).repeat(len(weight), 1)
        grad_bias = torch.full_like(bias, -share * len(hidden))
        buffer = hidden.new_empty(min(rows, len(hidden)), len(weight))
        for start in range(0, len(hidden), rows):
            h = hidden[start : start + rows]  # (C, d)
            target = targets[start : start + rows, None]  # (C, 1)
            z = torch.addmm(bias, h, weight.T, out=buffer[: len(h)])  # (C, V)
            loss += z.amax(1).sum() - (1 - smoothing) * z.gather(1, target).sum()
            torch.softmax(z, 1, out=z)
            # The largest probability is exp(max(z) - logsumexp(z)): no second exponential.
            loss -= z.amax(1).log().sum()
            z.scatter_add_(1, target, z.new_full((), smoothing - 1).expand_as(target))
            if ctx.needs_input_grad[0]:
                out = grad_hidden[start : start + rows]
                torch.addmm(sum_weight, z, weight, beta=-share, out=out)
            if ctx.needs_input_grad[1]:
                grad_weight.addmm_(z.T, h)
            grad_bias += z.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    # The type of the decorator makes `ctx` positional.
    def backward(ctx: Any, *grad_outputs: Any):  # pyright: ignore[reportIncompatibleMethodOverride]
        scaled = (
            gradient * grad_outputs[0] if needed else None
            for gradient, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        )
        return *scaled, None, None, None


def _check_targets(targets: Tensor, vocab: int) -> None:
    low, high = (int(x) for x in targets.aminmax())
    if low < 0 or high >= vocab:
        raise VocabularyError(
            f"target ids run from {low} to {high}, but the output has ids 0 to {vocab - 1}; "
            "was the text encoded with another tokenizer than the model was built for?"
        )
